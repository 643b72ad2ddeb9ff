"""The health of one recorder: what is recorded, dropped, not shipped yet, and what the disk last said.

Enters: a producer and its folder. Leaves: a frozen `Health`. Refuses: to read more than one page and a few slots of one
segment: it may be asked every second. All numbers are of this recorder in this process, so that they add up over processes.
"""

from __future__ import annotations

import contextlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metering.journal_format import DETAIL, HEADER_AT, NANO, PAGE, SLOT, WHOLE, get_part
from metering.keeper import is_led, leader_lock

if TYPE_CHECKING:
    import mmap

    from metering.errors import MeteringError
    from metering.layout import Layout
    from metering.producer import Producer

# A segment begins with the series and text of its first row, which are far fewer slots than this.
_LOOKED_AT = 256
_TIME_OF_EVENT = struct.Struct("<8xq")
_TIME_OF_DETAIL = struct.Struct("<q")


@dataclass(frozen=True, slots=True)
class Health:
    """How one recorder is doing. Numbers are of this process's own journal since the recorder was made (or forked).

    `oldest_unshipped_s`: how long ago the oldest row that is not in the lake yet was recorded, by this host's clock; 0
    when there is none. `unshipped_bytes` and `unshipped_segments`: what the journal holds of them, full or not.
    `recorded`: rows; `dropped`: events refused for want of room under on_error="drop_and_count". `is_shipper_alive`:
    somebody on this host ships the workspace. `last_error`: what the disk last said, while it still says so.
    """

    recorded: int
    dropped: int
    unshipped_segments: int
    unshipped_bytes: int
    oldest_unshipped_s: float
    is_shipper_alive: bool
    last_error: str | None


@dataclass(frozen=True, slots=True)
class Unshipped:
    """What of one producer waits to be shipped; `oldest_ns` is when its first row was recorded."""

    segments: int = 0
    bytes: int = 0
    oldest_ns: int | None = None


def look(
    layout: Layout,
    producer: Producer | None,
    *,
    now_ns: int,
    rows_before: int,
    dropped: int,
    error: MeteringError | None,
) -> Health:
    """Return the health of the recorder that these are of. Never raises."""
    rows, unshipped, is_led_now = rows_before, Unshipped(), False
    if producer is not None:
        rows += producer.rows
        with contextlib.suppress(OSError):
            unshipped = find_unshipped(producer)
    with contextlib.suppress(OSError):
        is_led_now = leader_lock(layout).exists() and is_led(layout)
    age_ns = 0 if unshipped.oldest_ns is None else now_ns - unshipped.oldest_ns
    return Health(
        recorded=rows,
        dropped=dropped,
        unshipped_segments=unshipped.segments,
        unshipped_bytes=unshipped.bytes,
        # The clock may have been set back since.
        oldest_unshipped_s=max(age_ns, 0) / 1e9,
        is_shipper_alive=is_led_now,
        last_error=None if error is None else error.message,
    )


def find_unshipped(producer: Producer) -> Unshipped:
    """Look at the segments of a producer's folder, by name and size, and into the first that holds rows."""
    segments = size = 0
    oldest_ns: int | None = None
    open_ones = {one.path.name: one for one in producer.unsealed}
    for path in sorted(one for one in producer.folder.iterdir() if one.suffix in {".open", ".sealed"}):
        segment = open_ones.get(path.name)
        if segment is not None and not segment.has_rows:
            continue
        # The shipper may delete a segment, and the keeper rename one, between the listing and the look.
        with contextlib.suppress(OSError, ValueError):
            size += path.stat().st_size
            segments += 1
            if oldest_ns is None:
                oldest_ns = first_recorded_ns(_head_of(path) if segment is None else segment.pages)
    return Unshipped(segments, size, oldest_ns)


def oldest_unshipped_ns(layout: Layout) -> int | None:
    """Return when the oldest row of this host's journal was recorded, of all producers, live or dead; None: there is none.

    Reads the head of one segment per producer. Segments are in the order of recording, and one that was just begun is empty.
    """
    found: list[int] = []
    for folder in layout.journal.glob("p-*"):
        # The shipper may remove a producer that is done, or delete a segment, between the listing and the look.
        with contextlib.suppress(FileNotFoundError):
            for path in sorted(one for one in folder.iterdir() if one.suffix in {".open", ".sealed"}):
                with contextlib.suppress(OSError, ValueError):
                    recorded_ns = _first_row_ns(_head_of(path))
                    if recorded_ns is not None:
                        found.append(recorded_ns)
                        break
    return min(found, default=None)


def _first_row_ns(head: bytes) -> int | None:
    """Return what `first_recorded_ns` does, but None for a segment without rows."""
    header = get_part(head[:PAGE], HEADER_AT)
    is_batch = header is not None and header["kind"] == "batch"
    kinds = {head[start + SLOT - 1] for start in range(PAGE, len(head) - SLOT + 1, SLOT)}
    return first_recorded_ns(head) if is_batch or kinds & {WHOLE, NANO, DETAIL} else None


def first_recorded_ns(head: bytes | mmap.mmap) -> int | None:
    """Return when the first row of a segment was recorded; of a batch, when its segment was made."""
    for start in range(PAGE, min(len(head), PAGE + _LOOKED_AT * SLOT), SLOT):
        kind = head[start + SLOT - 1]
        if kind in {WHOLE, NANO}:
            return int(_TIME_OF_EVENT.unpack_from(head, start)[0])
        if kind == DETAIL:
            return int(_TIME_OF_DETAIL.unpack_from(head, start)[0])
    header = get_part(bytes(head[:PAGE]), HEADER_AT)
    return None if header is None else int(header["created_at"]) * 1000


def _head_of(path: Path) -> bytes:
    with path.open("rb") as file:
        head = file.read(PAGE + _LOOKED_AT * SLOT)
    header = get_part(head[:PAGE], HEADER_AT)
    # The body of a batch is Arrow, and holds no slots.
    return head[:PAGE] if header is not None and header["kind"] == "batch" else head
