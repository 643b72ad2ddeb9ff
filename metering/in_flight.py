"""What is recorded and not yet in the lake: the journal, read without touching it.

Enters: a workspace's journal, live producers and all. Leaves: the rows of its segments, as SegmentBatches.
Refuses: to seal, to lock, to delete. A segment that is sealed or shipped while this looks is read once, or not at all;
so look here first and at the lake afterwards: what moved in between is then counted once, in the lake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metering.errors import JournalDamaged
from metering.segments import StoredSegment, producer_folders, read_segment, read_unsealed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from metering.batch import SegmentBatch
    from metering.layout import Layout
    from metering.meters import MeterRule


def in_flight(layout: Layout, rules: Mapping[str, MeterRule] | None, now_us: int) -> Iterator[SegmentBatch]:
    """Yield the segments of the journal, sealed and open, by producer and number. Damaged ones are left to the shipper."""
    from metering.decode import decode_segment

    for folder in producer_folders(layout.journal):
        for path in folder.files():
            try:
                stored = _read(path, folder.producer_id, now_us)
                if stored is not None:
                    yield decode_segment(stored, rules)
            except (FileNotFoundError, JournalDamaged):
                continue


def _read(path: Path, producer_id: str, now_us: int) -> StoredSegment | None:
    if path.suffix == ".sealed":
        return read_segment(path)
    if path.suffix != ".open":
        return None
    # A row that is being stored at this moment has no kind yet, and is not there yet.
    _, trailer, body = read_unsealed(path, producer_id, now_us)
    return StoredSegment(path, trailer, body)
