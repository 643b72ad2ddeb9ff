"""The journal: segments of fixed slots in mapped memory, written by one producer and counted by nobody else.

Enters: checked usage events, already in canonical text and whole numbers. Leaves: sealed segment files that the shipper
turns into rows of the lake. Refuses: to write past a full disk (`JournalFull`, never SIGBUS), to reuse a producer or a
number, and to change a segment once it is sealed.

Problem. A usage event must survive the death of the process that saw it, must cost no more than a counter in memory,
and must be counted once, although threads, signal handlers, forks and the sealing of a segment run into each other.

Observations. A store into a shared mapping survives SIGKILL and needs no system call. `itertools.count` hands out
numbers atomically, also to a signal handler that interrupts a thread; a lock on this path would do neither cheaply.
`struct.pack_into` stores its fields in order. A thread may stand still for any time between taking a number and storing.

Choice. A slot is claimed by one call of `count.__next__`, then stored, its last byte (the kind, never zero) last. A row
that needs several slots writes its tail first and its head last, so half a row does not count. After the store the
writer looks whether its segment is still open. If the segment was sealed meanwhile and did not count the slot, the
writer records again in the next one. The sealer closes the segment, waits a bounded time for claimed slots, and under
a lock lists those still empty as holes: the list in the header page is the one truth of what does not count.

Rejected: a lock per row (not re-entrant at this price), one file position per thread (sequences to merge), text rows
(a NUL scan per row on recovery), truncating at the first damaged row (it throws away rows that were acknowledged).
The layout of the file is in README.md.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import mmap
import os
import secrets
import struct
import threading
import time
import zlib
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

from metering.durable import fsync_path
from metering.errors import JournalFull
from metering.journal_format import (
    CHAIN_AT,
    DETAIL,
    DETAIL_CHECKED,
    DETAIL_SLOT,
    DETAILED,
    EVENT_SLOT,
    HAS_KEY,
    HOLES_MAX,
    NO_SLOT,
    PAGE,
    SERIES,
    SERIES_BYTES,
    SERIES_SLOT,
    SLOT,
    TEXT,
    TEXT_BYTES,
    TEXT_SLOT,
    TRAILER_AT,
    Chain,
    Header,
    Trailer,
    encode_json,
    get_closed_slots,
    new_page,
    put_closed_slots,
    put_holes,
    put_part,
    sealing_trailer,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pack_event = EVENT_SLOT.pack_into


class Row(NamedTuple):
    """One checked usage event on its way into a segment. `wide` is a quantity that no 64-bit number holds, as text."""

    series: bytes
    kind: int
    quantity: int
    wide: str | None
    time_ns: int
    recorded_ns: int
    key: str | None


class Segment:
    """One preallocated, mapped segment, as its own producer writes it. Any number of threads may append."""

    __slots__ = (
        "_counter",
        "_file",
        "_holes",
        "_seal_lock",
        "_sealed_slots",
        "claim",
        "defined",
        "header",
        "is_open",
        "is_suspect",
        "pages",
        "path",
        "series",
        "synced_to",
    )

    def __init__(self, path: Path, header: Header, file: int, pages: mmap.mmap) -> None:
        self.path = path
        self.header = header
        self.pages = pages
        self.is_open = True
        # An fsync that failed is never believed again for this file: its rows are copied into a new one at the seal.
        self.is_suspect = False
        self.synced_to = PAGE
        # What callers say -> slot, and canonical text -> slot. Both live as long as the segment: that bounds them.
        self.series: dict[tuple[object, ...], int] = {}
        self.defined: dict[bytes, int] = {}
        self._counter = itertools.count(PAGE, SLOT)
        # The byte offset of a slot no one else has.
        self.claim: Callable[[], int] = self._counter.__next__
        self._file = file
        self._seal_lock = threading.RLock()
        self._holes: frozenset[int] = frozenset()
        self._sealed_slots = header.slots

    @classmethod
    def create(cls, path: Path, header: Header) -> Segment:
        """Create and preallocate the file. Raises OSError when there is no room, leaving nothing behind."""
        size = PAGE + header.slots * SLOT
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            # Blocks must exist before they are mapped: a store into a sparse page of a full disk is SIGBUS.
            os.posix_fallocate(file, 0, size)
            pages = mmap.mmap(file, size)
        except BaseException:
            os.close(file)
            path.unlink()
            raise
        pages[:PAGE] = bytes(new_page(header))
        return cls(path, header, file, pages)

    def become(self, path: Path, header: Header) -> None:
        """Turn a spare into the segment of this number. Raises OSError; it is then a spare still."""
        self.pages[:PAGE] = bytes(new_page(header))
        self.path.rename(path)
        self.path, self.header = path, header

    @property
    def claimed_to(self) -> int:
        """The offset behind the last claimed slot; may lie behind the end of the segment."""
        return int(repr(self._counter)[6:].split(",")[0])

    @property
    def has_rows(self) -> bool:
        return self.claimed_to > PAGE

    def append(self, row: Row) -> bool:
        """Store one usage event. Return False, with nothing counted, when the segment is full or was sealed meanwhile."""
        try:
            kind, link = row.kind, self.define(row.series)
            if row.wide is not None or row.key is not None or row.time_ns != row.recorded_ns:
                kind, link = DETAILED[kind], self._write_detail(link, row)
            offset = self.claim()
            check = row.quantity ^ row.time_ns ^ link
            pack_event(self.pages, offset, row.quantity, row.time_ns, check, link, kind)
        except (struct.error, TypeError, ValueError):
            # Full, or given up meanwhile. Anything else would be a row that was not checked.
            if self.is_open and self.claimed_to <= PAGE + self.header.slots * SLOT:
                raise
            return False
        return self.is_open or self.holds(offset)

    def define(self, text: bytes) -> int:
        """Return the slot that defines this series, writing it on first use. Raises struct.error when full."""
        slot = self.defined.get(text)
        if slot is None:
            following = self._write_text(text[SERIES_BYTES:])
            offset = self.claim()
            head = text[:SERIES_BYTES]
            SERIES_SLOT.pack_into(self.pages, offset, following, zlib.crc32(text), len(head), head, SERIES)
            slot = self.defined[text] = (offset - PAGE) // SLOT
        return slot

    def holds(self, offset: int) -> bool:
        """Return whether a slot stored after the seal began is counted by it; if not, it must be recorded again."""
        with self._seal_lock:
            slot = (offset - PAGE) // SLOT
            return slot < self._sealed_slots and slot not in self._holes

    def inherit(self, chain: Chain) -> None:
        """Note what came before, so that this segment can be sealed after the one before was shipped and deleted."""
        put_part(self.pages, CHAIN_AT, encode_json(asdict(chain)))

    def sync(self) -> None:
        """Put every row stored so far on the disk. Raises OSError; the segment is then suspect for ever."""
        # Not beside `release`: the number of a closed file may belong to another file by then.
        with self._seal_lock:
            if self.is_suspect:
                raise OSError(errno.EIO, "an earlier fsync of this segment failed")
            if self.pages.closed:
                return
            claimed = self.claimed_to
            try:
                os.fdatasync(self._file)
            except OSError:
                self.is_suspect = True
                raise
            self.synced_to = claimed

    def close_to_writers(self, patience_s: float = 0.2) -> bytes | None:
        """Fix which slots count, and return their kinds; None when too many are claimed and empty: try again later.

        The order matters. First `is_open` falls: a claim that follows is seen by its own writer. Then the claims so
        far are taken as the length. Then empty slots are waited for. What is still empty is listed under the lock that
        `holds` takes, so that a late writer and the seal agree about every single slot, also if the process dies here.
        """
        self.is_open = False
        with self._seal_lock:
            if get_closed_slots(self.pages) is None:
                slots = min((self.claim() - PAGE) // SLOT, self.header.slots)
                # In the page before any writer is turned away by it: whoever reads this segment after a kill must not
                # count a slot behind the end, because its writer recorded again in the next segment.
                put_closed_slots(self.pages, slots)
                self._sealed_slots = slots
        deadline = time.monotonic() + patience_s
        while 0 in self._kinds() and time.monotonic() < deadline:
            time.sleep(0.001)
        with self._seal_lock:
            kinds = bytearray(self._kinds())
            # A hole stays one, also when it was stored into since an earlier attempt to seal: its row is elsewhere.
            for slot in self._holes:
                kinds[slot] = 0
            holes = [slot for slot, kind in enumerate(kinds) if not kind] if 0 in kinds else []
            if len(holes) > HOLES_MAX:
                return None
            put_holes(self.pages, holes)
            self._holes = frozenset(holes)
        return bytes(kinds)

    def seal(self, chain: Chain, kinds: bytes, *, sealed_at: int, dropped: int) -> Trailer:
        """Write the trailer and make it durable. The caller renames the file, which is what makes it sealed."""
        body = bytearray(self.pages[PAGE : PAGE + len(kinds) * SLOT])
        trailer = sealing_trailer(self.header, chain, body, kinds, self._holes, sealed_at=sealed_at, dropped=dropped)
        put_part(self.pages, TRAILER_AT, trailer.encode())
        if not self.is_suspect:
            try:
                os.fdatasync(self._file)
            except OSError:
                self.is_suspect = True
        if self.is_suspect:
            self._copy_to_new_file()
        return trailer

    def release(self) -> None:
        """Give up mapping and file. A writer that still holds this segment gets TypeError and goes to the next one."""
        self.is_open = False
        with self._seal_lock:
            if not self.pages.closed:
                self.pages.close()
                os.close(self._file)

    def abandon(self) -> None:
        """Give up what a forked child inherited. Takes no lock: a thread that does not exist here may hold it."""
        self.is_open = False
        if not self.pages.closed:
            self.pages.close()
            os.close(self._file)

    def _copy_to_new_file(self) -> None:
        # The kernel marks pages clean whose write failed, and the next fsync answers "done": only a new file is honest.
        fresh = self.path.with_suffix(".copy")
        fresh.unlink(missing_ok=True)
        write_new_file(fresh, [bytes(self.pages)])
        fresh.replace(self.path)

    def _kinds(self) -> bytes:
        return self.pages[PAGE + SLOT - 1 : PAGE + self._sealed_slots * SLOT : SLOT]

    def _write_detail(self, series: int, row: Row) -> int:
        text = "\n".join(part for part in (row.wide, row.key) if part is not None).encode()
        following = self._write_text(text)
        flags = 0 if row.key is None else HAS_KEY
        crc = zlib.crc32(text, zlib.crc32(DETAIL_CHECKED.pack(row.recorded_ns, series, following, flags)))
        offset = self.claim()
        DETAIL_SLOT.pack_into(self.pages, offset, row.recorded_ns, series, following, flags, crc, DETAIL)
        return (offset - PAGE) // SLOT

    def _write_text(self, text: bytes) -> int:
        # Last piece first, so that each points to one that is there and the chain reads forwards.
        following = NO_SLOT
        for start in reversed(range(0, len(text), TEXT_BYTES)):
            piece = text[start : start + TEXT_BYTES]
            offset = self.claim()
            TEXT_SLOT.pack_into(self.pages, offset, following, len(piece), piece, TEXT)
            following = (offset - PAGE) // SLOT
        return following


class Producer:
    """One life of one process: a folder of its own, held by a lock, and a chain of numbered segments in it."""

    def __init__(self, journal: Path, *, segment_bytes: int, bytes_max: int, now_us: Callable[[], int]) -> None:
        self.producer_id = f"p-{secrets.token_hex(16)}"
        self.folder = journal / self.producer_id
        self.dropped = 0
        self._slots = (segment_bytes - PAGE) // SLOT
        self._bytes_max = bytes_max
        self._now_us = now_us
        self._unsealed: dict[int, Segment] = {}
        self._spare_numbers: list[int] = []
        # The next segment, allocated and fsynced ahead of need, so that no caller waits for the disk.
        self._spare: Segment | None = None
        self._spares = itertools.count(1).__next__
        self._is_folder_dirty = False
        self._numbers = itertools.count(1).__next__
        self._sealed_to = 0
        self._chain = Chain()
        # `_state` guards numbers and the chain for moments; `_sealing` is held while segments are sealed in order.
        self._state = threading.RLock()
        self._sealing = threading.RLock()
        self._is_sealing = False
        self._lock_file = _create_producer_folder(journal, self.producer_id)
        self._folder_file = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)

    @property
    def backlog(self) -> int:
        """How many segments are not sealed, the current one included."""
        return len(self._unsealed)

    def prepare_spare(self) -> None:
        """Allocate the next segment now. For one thread only. Raises JournalFull."""
        if self._spare is not None:
            return
        self._check_room(PAGE + self._slots * SLOT)
        # A name of its own: the spare before may just be on its way to become a segment.
        path = self._path(self._spares(), "spare")
        try:
            spare = Segment.create(path, Header(self.producer_id, 0, "journal", 0, self._slots))
            spare.sync()
            os.fsync(self._folder_file)
        except OSError as error:
            raise _full(self.folder, error) from error
        self._spare = spare

    def open_segment(self) -> Segment:
        """Return a new segment, ready for rows: the spare if there is one. Raises JournalFull."""
        with self._state:
            spare, self._spare = self._spare, None
            number = self._spare_numbers.pop() if self._spare_numbers else self._numbers()
        try:
            header = Header(self.producer_id, number, "journal", self._now_us(), self._slots)
            segment = self._create(header) if spare is None else spare
            if spare is not None:
                spare.become(self._path(number, "open"), header)
            with self._state:
                self._unsealed[number] = segment
                if number == self._sealed_to + 1:
                    segment.inherit(self._chain)
            if spare is None:
                segment.sync()
                os.fsync(self._folder_file)
            else:
                # Its blocks are on the disk. Its new name follows with its first rows, within the flush interval.
                self._is_folder_dirty = True
        except BaseException as error:
            self._give_back(number)
            if isinstance(error, OSError):
                raise _full(self.folder, error) from error
            raise
        return segment

    def _create(self, header: Header) -> Segment:
        self._check_room(PAGE + self._slots * SLOT)
        return Segment.create(self._path(header.segment, "open"), header)

    def seal_before(self, number: int | None = None, *, current: Segment | None = None) -> int:
        """Seal every segment below `number` (all when None) but the current one, in order. Return how many were sealed.

        Raises JournalFull when the disk refuses; rows stay where they are, and the next call tries again.
        """
        sealed = 0
        # Only what is there now: whoever records without pause opens segments faster than this loop could end.
        with self._state:
            highest = max(self._unsealed, default=0)
        last = highest if number is None else min(highest, number - 1)
        with self._sealing:
            # A signal handler may come here while its own thread seals: it must not seal the same segment twice.
            if self._is_sealing:
                return 0
            self._is_sealing = True
            try:
                while self._sealed_to < last:
                    segment = self._unsealed.get(self._sealed_to + 1)
                    if segment is None or segment is current:
                        break
                    if not self._seal(segment):
                        break
                    sealed += 1
            except OSError as error:
                raise _full(self.folder, error) from error
            finally:
                self._is_sealing = False
        return sealed

    def reserve_batch(self) -> int:
        with self._state:
            return self._spare_numbers.pop() if self._spare_numbers else self._numbers()

    def write_batch(self, number: int, rows: int, body: memoryview) -> None:
        """Write one Arrow batch as a sealed segment of this sequence: durable, whole or not at all. Raises JournalFull."""
        with self._sealing:
            try:
                self.seal_before(number)
                if self._sealed_to != number - 1:
                    raise OSError(errno.EBUSY, "an earlier segment cannot be sealed just now")
                self._check_room(len(body))
                trailer = self._batch_trailer(number, rows, body)
                page = new_page(Header(self.producer_id, number, "batch", trailer.created_at, 0))
                put_part(page, TRAILER_AT, trailer.encode())
                write_new_file(self._path(number, "part"), [page, body])
                self._finish(number, trailer, "part")
            except BaseException as error:
                self._give_back(number)
                if isinstance(error, OSError):
                    raise _full(self.folder, error) from error
                raise

    def sync(self) -> bool:
        """Put every row recorded before this call on the disk. Return False when a segment is suspect: seal it, then."""
        return self._sync(list(self._unsealed.values()))

    def sync_if_changed(self) -> bool:
        return self._sync([one for one in list(self._unsealed.values()) if one.synced_to != one.claimed_to])

    def _sync(self, segments: list[Segment]) -> bool:
        is_durable = True
        for segment in segments:
            try:
                segment.sync()
            except OSError:
                is_durable = False
        if self._is_folder_dirty:
            self._is_folder_dirty = False
            try:
                os.fsync(self._folder_file)
            except OSError:
                self._is_folder_dirty, is_durable = True, False
        return is_durable

    def abandon(self) -> None:
        """Let go in a forked child: close what was inherited, unlock nothing, leave every file to the parent."""
        for segment in self._unsealed.values():
            segment.abandon()
        if self._spare is not None:
            self._spare.abandon()
        self._close_files()

    def close(self) -> None:
        """Seal what there is and give up the lock: from now on the shipper treats this producer as dead."""
        self.seal_before()
        if self._spare is not None:
            self._spare.path.unlink(missing_ok=True)
            self._spare.release()
        self._close_files()

    def _seal(self, segment: Segment) -> bool:
        kinds = segment.close_to_writers()
        if kinds is None:
            return False
        trailer = segment.seal(self._chain, kinds, sealed_at=self._now_us(), dropped=self.dropped)
        self._finish(segment.header.segment, trailer, "open")
        segment.release()
        return True

    def _batch_trailer(self, number: int, rows: int, body: memoryview) -> Trailer:
        now = self._now_us()
        return Trailer(
            producer_id=self.producer_id,
            segment=number,
            kind="batch",
            rows=rows,
            rows_before=self._chain.rows_before,
            dropped=self.dropped,
            body_bytes=len(body),
            sha256=hashlib.sha256(body).hexdigest(),
            previous_sha256=self._chain.previous_sha256,
            created_at=now,
            sealed_at=now,
            holes=(),
        )

    def _finish(self, number: int, trailer: Trailer, suffix: str) -> None:
        chain = trailer.next_chain()
        with self._state:
            following = self._unsealed.get(number + 1)
            if following is not None:
                following.inherit(chain)
        # The next segment must know its past before this one may be shipped and deleted, also after a power cut.
        if following is not None and not following.is_suspect:
            following.sync()
        self._path(number, suffix).rename(self._path(number, "sealed"))
        with self._state:
            self._unsealed.pop(number, None)
            self._chain = chain
            self._sealed_to = number
            late = self._unsealed.get(number + 1)
            if late is not None and late is not following:
                late.inherit(chain)
        # The rename is done and the rows count: an error now would only invite a retry that counts them twice.
        with contextlib.suppress(OSError):
            os.fsync(self._folder_file)

    def _give_back(self, number: int) -> None:
        with self._state:
            segment = self._unsealed.pop(number, None)
            self._spare_numbers.append(number)
        if segment is not None:
            segment.release()
        for suffix in ("open", "part"):
            with contextlib.suppress(OSError):
                self._path(number, suffix).unlink(missing_ok=True)

    def _check_room(self, bytes_needed: int) -> None:
        held = 0
        for path in self.folder.iterdir():
            # The shipper may delete a segment between the listing and the look.
            with contextlib.suppress(FileNotFoundError):
                held += path.stat().st_size
        if held + bytes_needed > self._bytes_max:
            raise JournalFull(
                f"journal {self.folder} holds {held} bytes and may hold {self._bytes_max}: nothing ships it; "
                "run `tallybook ship` or raise journal_bytes_max",
                folder=str(self.folder),
                bytes_held=held,
            )

    def _path(self, number: int, suffix: str) -> Path:
        return self.folder / f"{number:012d}.{suffix}"

    def _close_files(self) -> None:
        # Closing, not unlocking: a forked child shares the parent's lock, and LOCK_UN here would take it from the parent.
        for file in (self._lock_file, self._folder_file):
            with contextlib.suppress(OSError):
                os.close(file)


def _create_producer_folder(journal: Path, producer_id: str) -> int:
    """Create the folder with its lock held from the first moment that others can see it. Return the lock's file."""
    unborn = journal / f".{producer_id}"
    try:
        journal.mkdir(mode=0o700, parents=True, exist_ok=True)
        unborn.mkdir(mode=0o700)
        lock = os.open(unborn / "lock", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unborn.rename(journal / producer_id)
        fsync_path(journal)
    except OSError as error:
        raise _full(journal, error) from error
    return lock


def write_new_file(path: Path, pieces: list[bytes | bytearray | memoryview]) -> None:
    """Write a new file and fsync it. Raises OSError and leaves nothing when it cannot be written whole."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        for piece in pieces:
            rest = memoryview(piece)
            # A disk that fills up writes short first and refuses next.
            while rest:
                rest = rest[os.write(file, rest) :]
        os.fsync(file)
    except BaseException:
        path.unlink()
        raise
    finally:
        os.close(file)


def _full(folder: Path, error: OSError) -> JournalFull:
    return JournalFull(
        f"journal {folder} cannot take more rows ({error.strerror or error}): nothing was recorded; "
        "free space or make the folder writable, then record again",
        folder=str(folder),
        errno=error.errno,
    )
