"""The producer: one life of one process, and the chain of numbered segments that it leaves.

Enters: the journal folder. Leaves: segments in order, each with its number, its place in the hash chain, and a trailer.
Refuses: to be shared. A child of a fork is another producer; a number is given once; a folder is held by a lock for as
long as its producer lives, so that whoever gets the lock knows that the producer is dead.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import secrets
import shutil
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from metering.drops import Drops, make_place, write_drops
from metering.durable import fsync_path, make_folder
from metering.errors import JournalFull
from metering.journal import Segment, write_new_file
from metering.journal_format import BATCH_FORMAT, PAGE, SLOT, TRAILER_AT, Chain, Header, Trailer, new_page, put_part

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Producer:
    """One life of one process: a folder of its own, held by a lock, and a chain of numbered segments in it."""

    def __init__(self, journal: Path, *, segment_bytes: int, bytes_max: int, now_us: Callable[[], int]) -> None:
        self.producer_id = f"p-{secrets.token_hex(16)}"
        self.folder = journal / self.producer_id
        self._slots = (segment_bytes - PAGE) // SLOT
        self._bytes_max = bytes_max
        # No less than the folder holds: what it held when it was last looked through, and all that was taken since.
        self._held_at_most = 0
        self._now_us = now_us
        self._unsealed: dict[int, Segment] = {}
        self._spare_numbers: list[int] = []
        # The next segment, allocated and fsynced ahead of need, so that no caller waits for the disk.
        self._spare: Segment | None = None
        self._spares = itertools.count(1).__next__
        # Names that changed in the folder, and how many of them are on the disk.
        self._renames = 0
        self._renames_synced = 0
        self._numbers = itertools.count(1).__next__
        self._sealed_to = 0
        self._chain = Chain()
        # What `write_drops` was last given, and whether that is on the disk.
        self._drops = Drops()
        self._drops_are_synced = True
        # `_state` guards numbers and the chain for moments; `_sealing` is held while segments are sealed in order.
        self._state = threading.RLock()
        self._sealing = threading.RLock()
        self._is_sealing = False
        self._is_closed = False
        self._lock_file, self._folder_file = _create_producer_folder(journal, self.producer_id)

    @property
    def backlog(self) -> int:
        """How many segments are not sealed, the current one included."""
        return len(self._unsealed)

    @property
    def unsealed(self) -> list[Segment]:
        """The segments that are not sealed, the current one included."""
        return list(self._unsealed.values())

    @property
    def reached(self) -> int:
        """The highest segment that has rows, or may have: whoever recorded before this was read is in it at the latest."""
        with self._state:
            return max(self._sealed_to, *self._unsealed, 0)

    @property
    def rows(self) -> int:
        """How many rows this producer holds or held: those of sealed segments as sealed, of the others as stored by now."""
        # Under the lock that moves a segment from one to the other, so that none is counted twice or not at all.
        with self._state:
            return self._chain.rows_before + sum(segment.count_rows() for segment in self._unsealed.values())

    @property
    def dropped(self) -> int:
        """How many events of this life were dropped for want of room: told by the next trailer, and by the lock file."""
        return self._drops.dropped

    @dropped.setter
    def dropped(self, count: int) -> None:
        with self._state:
            self._note_drops(count)

    def _note_drops(self, dropped: int = 0, **sealed: Any) -> None:
        """Write down the drops with what is new, so that they are told also when this process is killed. Needs `_state`."""
        # A signal handler may drop an event, and come here, in the midst of this: nothing of it may be overwritten.
        while True:
            before = self._drops
            after = replace(before, dropped=max(before.dropped, dropped), **sealed)
            if self._drops is before:
                self._drops = after
                break
        is_written = not after.dropped
        while not is_written:
            drops, self._drops_are_synced = self._drops, False
            # The count is in memory still, and every trailer tells it.
            with contextlib.suppress(OSError):
                write_drops(self._lock_file, drops)
            is_written = drops is self._drops

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
                with self._state:
                    self._renames += 1
        except BaseException as error:
            self._give_back(number)
            if spare is not None:
                # It could not become a segment, or its segment is given back: its room is needed more than it.
                spare.discard()
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
                page = new_page(Header(self.producer_id, number, "batch", trailer.created_at, 0, BATCH_FORMAT))
                put_part(page, TRAILER_AT, trailer.encode())
                write_new_file(self._path(number, "part"), [page, body])
                self._finish(number, trailer, "part")
            except BaseException as error:
                self._give_back(number)
                self._disinherit(number + 1)
                if isinstance(error, OSError):
                    raise _full(self.folder, error) from error
                raise

    def sync(self) -> bool:
        """Put every row recorded before this call on the disk. Return False when a segment is suspect: seal it, then."""
        return self._sync(self.unsealed)

    def sync_if_changed(self) -> bool:
        return self._sync([one for one in self.unsealed if one.synced_to != one.claimed_to])

    def _sync(self, segments: list[Segment]) -> bool:
        is_durable = True
        for segment in segments:
            try:
                segment.sync()
            except OSError:
                is_durable = False
        # Two threads may both find it changed and both sync: neither may go on the word of one that is not done yet.
        renames = self._renames
        if self._renames_synced < renames and not self._is_closed:
            try:
                os.fsync(self._folder_file)
                self._renames_synced = max(self._renames_synced, renames)
            except OSError:
                is_durable = False
        if not self._drops_are_synced and not self._is_closed:
            self._drops_are_synced = True
            # A count, not rows: it makes no flush fail, and the next trailer tells it again.
            with contextlib.suppress(OSError):
                os.fdatasync(self._lock_file)
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
            self._spare.discard()
        self._is_closed = True
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
            format=BATCH_FORMAT,
        )

    def _finish(self, number: int, trailer: Trailer, suffix: str) -> None:
        chain = trailer.next_chain()
        sealed: dict[str, Any] = {"told": trailer.dropped, "sealed_to": number, "chain": chain}
        with self._state:
            if suffix == "open":
                # Before others may take the segment away. While it is open, whoever finds it tells the count with it.
                self._note_drops(**sealed)
            following = self._unsealed.get(number + 1)
            if following is not None:
                following.inherit(chain)
        # The next segment must know its past before this one may be shipped and deleted, also after a power cut.
        if following is not None and not following.is_suspect:
            following.sync()
        self._path(number, suffix).rename(self._path(number, "sealed"))
        with self._state:
            self._note_drops(**sealed)
            # Before the segment leaves the list of `sync`: what is not on the disk by then must be waited for.
            self._renames += 1
            renames = self._renames
            self._unsealed.pop(number, None)
            self._chain = chain
            self._sealed_to = number
            late = self._unsealed.get(number + 1)
            if late is not None and late is not following:
                late.inherit(chain)
        # The rename is done and the rows count: an error now would only invite a retry that counts them twice.
        with contextlib.suppress(OSError):
            os.fsync(self._folder_file)
            self._renames_synced = max(self._renames_synced, renames)

    def _disinherit(self, number: int) -> None:
        """Take back from a segment the chain of one that was refused after all."""
        with self._state:
            following = self._unsealed.get(number)
            if following is not None:
                following.inherit(self._chain)

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
        """Take room for so many bytes. Raises JournalFull when the journal would be over its limit."""
        with self._state:
            # Others only take away: the folder is looked through once what was taken since might not fit, and not each time.
            if self._held_at_most + bytes_needed > self._bytes_max:
                self._held_at_most = self._bytes_held()
            held = self._held_at_most
            if held + bytes_needed <= self._bytes_max:
                self._held_at_most += bytes_needed
                return
        why, to_do = "nothing ships it", "run `tallybook ship` or raise journal_bytes_max"
        if bytes_needed > self._bytes_max:
            why, to_do = f"{bytes_needed} at once never fit", "record the table in parts or raise journal_bytes_max"
        raise JournalFull(
            f"journal {self.folder} holds {held} bytes and may hold {self._bytes_max}: {why}; {to_do}",
            folder=str(self.folder),
            bytes_held=held,
        )

    def _bytes_held(self) -> int:
        held = 0
        for path in self.folder.iterdir():
            # The shipper may delete a segment between the listing and the look. The lock is no row's.
            with contextlib.suppress(FileNotFoundError):
                held += path.stat().st_size if path.name != "lock" else 0
        return held

    def _path(self, number: int, suffix: str) -> Path:
        return self.folder / f"{number:012d}.{suffix}"

    def _close_files(self) -> None:
        # Closing, not unlocking: a forked child shares the parent's lock, and LOCK_UN here would take it from the parent.
        for file in (self._lock_file, self._folder_file):
            with contextlib.suppress(OSError):
                os.close(file)


def _create_producer_folder(journal: Path, producer_id: str) -> tuple[int, int]:
    """Create the folder with its lock held from the first moment that others can see it. Return lock and folder, open.

    Nothing stays of a folder that could not be made: no file open, no folder unborn. Raises JournalFull.
    """
    unborn, born = journal / f".{producer_id}", journal / producer_id
    files: list[int] = []
    try:
        # The names above are as perishable as the folder's own; whoever made them may not have synced them.
        missing = [folder for folder in (journal, *journal.parents) if not folder.exists()]
        above = make_folder(journal, missing[-1] if missing else journal.parent)
        journal.chmod(0o700)
        unborn.mkdir(mode=0o700)
        creating = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        files.append(os.open(unborn / "lock", creating, 0o600))
        fcntl.flock(files[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        make_place(files[0])
        files.append(os.open(unborn, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY))
        unborn.rename(born)
        for folder in above:
            fsync_path(folder)
    except OSError as error:
        for folder in (unborn, born):
            shutil.rmtree(folder, ignore_errors=True)
        for file in files:
            os.close(file)
        raise _full(journal, error) from error
    return files[0], files[1]


def _full(folder: Path, error: OSError) -> JournalFull:
    return JournalFull(
        f"journal {folder} cannot take more rows ({error.strerror or error}): nothing was recorded; "
        "free space or make the folder writable, then record again",
        folder=str(folder),
        errno=error.errno,
    )
