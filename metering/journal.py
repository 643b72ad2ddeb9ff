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
import itertools
import mmap
import os
import struct
import threading
import time
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

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
    count_rows,
    encode_json,
    fields_of,
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

    def count_rows(self) -> int:
        """Return how many rows are stored by now. Raises ValueError when the segment was given up meanwhile."""
        return count_rows(self._kinds())

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
        put_part(self.pages, CHAIN_AT, encode_json(fields_of(chain)))

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
        body = self.pages[PAGE : PAGE + len(kinds) * SLOT]
        trailer = sealing_trailer(self.header, chain, body, kinds, self._holes, sealed_at=sealed_at, dropped=dropped)
        put_part(self.pages, TRAILER_AT, trailer.encode())
        end = PAGE + len(kinds) * SLOT
        # Under the lock of `sync`: the kernel tells a failure once, and who asks second would be told that all is well.
        with self._seal_lock:
            if not self.is_suspect and not (end <= len(self.pages) // 2 and self._shrink(end)):
                try:
                    os.fdatasync(self._file)
                except OSError:
                    self.is_suspect = True
        if self.is_suspect:
            self._copy_to_new_file(end)
        return trailer

    def _shrink(self, end: int) -> bool:
        """Put a file of no more than its rows in the place of this one; return False when there is no room for that.

        An idle process seals a segment per second. Whole ones would fill the journal with nothing while the lake is away.
        Not by truncating: whoever has the old file mapped still would be killed by the kernel.
        """
        try:
            self._copy_to_new_file(end)
        except OSError:
            return False
        return True

    def release(self) -> None:
        """Give up mapping and file. A writer that still holds this segment gets TypeError and goes to the next one."""
        self.is_open = False
        with self._seal_lock:
            if not self.pages.closed:
                self.pages.close()
                os.close(self._file)

    def discard(self) -> None:
        """Remove a segment that never held a row, and give up its mapping and file."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
        self.release()

    def abandon(self) -> None:
        """Give up what a forked child inherited. Takes no lock: a thread that does not exist here may hold it."""
        self.is_open = False
        if not self.pages.closed:
            self.pages.close()
            os.close(self._file)

    def _copy_to_new_file(self, end: int) -> None:
        # The kernel marks pages clean whose write failed, and the next fsync answers "done": only a new file is honest.
        fresh = self.path.with_suffix(".copy")
        fresh.unlink(missing_ok=True)
        write_new_file(fresh, [self.pages[:end]])
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


class _NoSegment:
    """Stands where no segment is open yet: whatever is recorded goes the slow way, which opens one."""

    is_open = False
    pages = bytearray()
    claimed_to = 0

    def __init__(self) -> None:
        self.series: dict[tuple[object, ...], int] = {}
        self.defined: dict[bytes, int] = {}

    def claim(self) -> int:
        return 0

    def append(self, row: Row) -> bool:
        del row
        return False

    def holds(self, offset: int) -> bool:
        del offset
        return False


NO_SEGMENT: Any = _NoSegment()


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
