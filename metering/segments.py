"""Segments as the shipper finds them: of producers that live, of producers that died, whole or damaged.

Enters: the journal folder. Leaves: sealed segments in the order of their producer, each with a trailer and a body whose
hash was checked before anything in it was believed. Refuses: to touch the open segment of a producer that lives, to
cut a segment at its first damaged row, and to delete what it cannot read (that goes to `quarantine/`).

A producer holds the lock of its folder for its whole life; whoever gets that lock has proof that it is dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from metering.drops import Drops, read_drops, write_drops
from metering.durable import fsync_path, make_folder
from metering.errors import JournalDamaged, MeteringError
from metering.journal import write_new_file
from metering.journal_format import (
    BATCH_FORMAT,
    CHAIN_AT,
    HEADER_AT,
    MAGIC,
    PAGE,
    SLOT,
    TRAILER_AT,
    Chain,
    Header,
    Trailer,
    get_closed_slots,
    get_holes,
    get_part,
    new_page,
    put_part,
    sealing_trailer,
    zero_holes,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from metering.layout import Layout

SUFFIX_SEALED = ".sealed"
# To make a folder takes a millisecond; past this its maker is dead, or will be told that the disk refused.
UNBORN_US = 10 * 60 * 10**6


@dataclass(frozen=True, slots=True)
class StoredSegment:
    """A sealed segment whose bytes are what its trailer says."""

    path: Path
    trailer: Trailer
    body: bytearray


class ProducerFolder:
    """The folder of one producer, with its lock if the producer is dead and nobody else tidies up after it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.producer_id = path.name
        self._lock: int | None = None

    @property
    def is_ours(self) -> bool:
        """Whether the producer is proven dead and this process holds its lock."""
        return self._lock is not None

    def __enter__(self) -> ProducerFolder:
        try:
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            # A producer locks before its folder can be seen: another shipper was interrupted while it removed this one.
            with contextlib.suppress(OSError):
                self.path.rmdir()
            return self
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            self._lock = lock
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def sealed(self) -> list[Path]:
        """Return the sealed segments that exist now, in order, with none before the last of them overlooked.

        A listing of a folder in which files are renamed may miss one. Segments are sealed in order; so every segment up
        to the highest number of one listing has its final name when a second listing begins.
        """
        highest = max((path.name for path in self._listed(SUFFIX_SEALED)), default="")
        return sorted(path for path in self._listed(SUFFIX_SEALED) if path.name <= highest)

    def recover(self, now_us: int) -> int:
        """Seal what a dead producer left open, and tell what it dropped; return how many segments. Only with its lock."""
        for leftover in (*self._listed(".part"), *self._listed(".copy"), *self._listed(".spare")):
            # Never finished, so never acknowledged; the number may be free or used by a later open segment.
            leftover.unlink(missing_ok=True)
        drops = self._drops()
        unsealed = sorted(self._listed(".open"))
        for path in unsealed:
            chain = self._chain_before(path)
            trailer = seal_dead_segment(path, self.producer_id, chain, now_us, dropped=drops.dropped)
            drops = replace(drops, told=trailer.dropped, sealed_to=trailer.segment, chain=trailer.next_chain())
        untold = 0 if drops.are_told else 1
        if untold:
            drops = self._tell(drops, now_us)
        if unsealed or untold:
            fsync_path(self.path)
        if self._lock is not None and drops.dropped:
            write_drops(self._lock, drops)
        return len(unsealed) + untold

    def remove_if_empty(self) -> bool:
        """Remove the folder of a dead producer of which everything is in the lake."""
        if any(path.name != "lock" for path in self.path.iterdir()) or not self._drops().are_told:
            return False
        (self.path / "lock").unlink()
        self.path.rmdir()
        return True

    def _drops(self) -> Drops:
        """Return what the producer dropped, as its lock file says, with the segments that were sealed since it was written."""
        drops = Drops() if self._lock is None else read_drops(self._lock)
        while drops.dropped:
            try:
                trailer = read_trailer(self._numbered(drops.sealed_to + 1))
            except (FileNotFoundError, JournalDamaged):
                break
            drops = replace(drops, told=trailer.dropped, sealed_to=trailer.segment, chain=trailer.next_chain())
        return drops

    def _tell(self, drops: Drops, now_us: int) -> Drops:
        """Leave a segment without rows whose trailer tells what was dropped after the last one was sealed.

        Its number is the next one, also when this is done again: the lake then takes it once.
        """
        path = self._numbered(drops.sealed_to + 1)
        header = Header(self.producer_id, drops.sealed_to + 1, "journal", now_us, 0)
        trailer = sealing_trailer(header, drops.chain, bytearray(), b"", (), sealed_at=now_us, dropped=drops.dropped)
        page = new_page(header)
        put_part(page, TRAILER_AT, trailer.encode())
        unfinished = path.with_suffix(".part")
        write_new_file(unfinished, [page])
        unfinished.rename(path)
        return replace(drops, told=drops.dropped, sealed_to=trailer.segment, chain=trailer.next_chain())

    def _numbered(self, number: int) -> Path:
        return self.path / f"{number:012d}{SUFFIX_SEALED}"

    def _chain_before(self, path: Path) -> Chain | None:
        previous = path.with_name(f"{int(path.stem) - 1:012d}{SUFFIX_SEALED}")
        with contextlib.suppress(FileNotFoundError, JournalDamaged):
            return read_trailer(previous).next_chain()
        return None

    def files(self) -> list[Path]:
        """Return what is in the folder now, by name; nothing when a shipper has removed it."""
        try:
            return sorted(self.path.iterdir(), key=lambda path: path.name)
        except FileNotFoundError:
            return []

    def _listed(self, suffix: str) -> list[Path]:
        return [path for path in self.files() if path.suffix == suffix]


def producer_folders(journal: Path) -> list[ProducerFolder]:
    """Return the folder of every producer, by name. Folders that begin with a dot are being born."""
    try:
        folders = sorted(path for path in journal.iterdir() if path.name.startswith("p-") and path.is_dir())
    except FileNotFoundError:
        return []
    return [ProducerFolder(path) for path in folders]


def remove_unborn(journal: Path, now_us: int) -> None:
    """Remove what processes left that were killed while they made their folder: nothing was ever recorded there.

    Only old ones whose lock is free. Whoever stood still for so long is refused its folder and makes another one.
    """
    for folder in journal.glob(".p-*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_mtime_ns // 1000 > now_us - UNBORN_US:
                continue
            with ProducerFolder(folder) as unborn:
                if unborn.is_ours:
                    unborn.remove_if_empty()


def read_unsealed(
    path: Path, producer_id: str, now_us: int, *, chain: Chain | None = None, dropped: int = 0
) -> tuple[bytes, Trailer, bytearray]:
    """Return the header page of an open segment, the trailer that it would get now, and the body of that trailer.

    A slot that was closed to its writer, or is listed as a hole, does not count, whatever is in it: its row was recorded
    again in the next segment.
    """
    content = bytearray(path.read_bytes())
    page, body = bytes(content[:PAGE]).ljust(PAGE, b"\0"), content[PAGE:]
    found = get_part(page, HEADER_AT)
    number = int(path.stem)
    # What a row means needs no header: it is rebuilt from the file's place when it is damaged.
    header = Header(**found) if found is not None else Header(producer_id, number, "journal", now_us, len(body) // SLOT)
    if chain is None:
        inherited = get_part(page, CHAIN_AT)
        chain = Chain(**inherited) if inherited is not None else Chain()
    kinds = bytes(body[SLOT - 1 :: SLOT])[: get_closed_slots(page)]
    slots = len(kinds.rstrip(b"\0"))
    holes = tuple(slot for slot in get_holes(page) if slot < slots)
    kinds = bytes(0 if slot in holes else kind for slot, kind in enumerate(kinds[:slots])) if holes else kinds[:slots]
    body = body[: slots * SLOT]
    # `sealing_trailer` hashes a copy; whoever decodes this body must not see what was stored into a hole.
    zero_holes(body, holes)
    trailer = sealing_trailer(header, chain, body, kinds, holes, sealed_at=now_us, dropped=dropped)
    return page, trailer, body


def seal_dead_segment(path: Path, producer_id: str, chain: Chain | None, now_us: int, *, dropped: int = 0) -> Trailer:
    """Seal one open segment of a dead producer where it ends, with every complete row, whatever lies between them.

    Slots that are empty in the middle are rows that were claimed and never stored, or pages that a power cut took before
    the next flush: none of them was acknowledged as durable. Damage is left in place, for the decoder to name.
    """
    page, trailer = read_unsealed(path, producer_id, now_us, chain=chain, dropped=dropped)[:2]
    sealed_page = bytearray(page)
    sealed_page[: len(MAGIC)] = MAGIC
    put_part(sealed_page, TRAILER_AT, trailer.encode())
    with path.open("r+b") as file:
        file.write(sealed_page)
        file.flush()
        os.fsync(file.fileno())
    path.rename(path.with_suffix(SUFFIX_SEALED))
    return trailer


def read_trailer(path: Path) -> Trailer:
    """Return the trailer of a sealed segment. Raises JournalDamaged when it cannot be read."""
    with path.open("rb") as file:
        return _trailer_of(path, file.read(PAGE))


def read_segment(path: Path) -> StoredSegment:
    """Return a sealed segment, its body hashed before anyone parses it. Raises JournalDamaged, FileNotFoundError.

    A segment of a later release is not damaged: MeteringError, and it waits in the journal for a shipper that reads it.
    """
    with path.open("rb") as file:
        trailer = _trailer_of(path, file.read(PAGE))
        if trailer.format > BATCH_FORMAT:
            raise MeteringError(
                f"{path} is of format {trailer.format}, which a later release wrote; upgrade what ships this workspace"
            )
        # Read into its place: for a moment there would be two of it otherwise. A file that was cut short has less.
        body = bytearray(min(trailer.body_bytes, max(os.fstat(file.fileno()).st_size - PAGE, 0)))
        del body[file.readinto(body) :]
    zero_holes(body, (hole for hole in trailer.holes if (hole + 1) * SLOT <= len(body)))
    found = hashlib.sha256(body).hexdigest()
    if found != trailer.sha256 or len(body) != trailer.body_bytes:
        raise JournalDamaged(
            f"{path}: the body of {len(body)} bytes has sha256 {found}, but was sealed with {trailer.sha256}; "
            "it is set aside in quarantine/ and not counted: compare it with a backup",
            path=str(path),
            expected=trailer.sha256,
            found=found,
        )
    return StoredSegment(path, trailer, body)


def quarantine(layout: Layout, path: Path) -> Path:
    """Set a damaged segment aside, whole. It is never deleted and never read again until somebody puts it back.

    Raises FileNotFoundError when another shipper did that first.
    """
    folder = layout.quarantine / path.parent.name
    above = make_folder(folder, layout.root)
    for private in (layout.quarantine, folder):
        private.chmod(0o700)
    for copy in itertools.count(1):
        # One that was set aside before, put back and damaged again is another finding: both stay.
        aside = folder / (path.name if copy == 1 else f"{path.stem}.{copy}{path.suffix}")
        if not aside.exists():
            break
    path.rename(aside)
    for changed in above:
        fsync_path(changed)
    return aside


def quarantined(layout: Layout) -> Iterator[Path]:
    """Yield the segments that were set aside, in a fixed order. Each is a finding."""
    yield from sorted(layout.quarantine.glob(f"*/*{SUFFIX_SEALED}"))


def _trailer_of(path: Path, page: bytes) -> Trailer:
    part: dict[str, Any] | None = None
    if len(page) == PAGE and page[: len(MAGIC)] == MAGIC:
        part = get_part(page, TRAILER_AT)
    try:
        if part is not None:
            trailer = Trailer(**{**part, "holes": tuple(part["holes"])})
            if (trailer.producer_id, trailer.segment) == (path.parent.name, int(path.stem)):
                return trailer
    except (KeyError, TypeError, ValueError):
        part = None
    raise JournalDamaged(
        f"{path}: the trailer cannot be read or names another segment; it is set aside in quarantine/, not counted",
        path=str(path),
    )
