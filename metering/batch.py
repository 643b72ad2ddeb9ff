"""One sealed segment as Arrow tables: the hand-over from capture to the lake.

Enters: rows of one segment, checked. Leaves: a SegmentBatch: usage events, dead letters and control totals of one
(producer, segment). Refuses: nothing; the schemas are declared in `metering.events`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class SegmentBatch:
    """One segment of one producer. `row` numbers 0..rows-1 are shared by events and dead letters, so a gap is visible.

    `kind` is journal, batch or file; `sealed_at` is in microseconds since 1970, UTC. `sha256` is of the segment's bytes
    as stored, `previous_sha256` chains it to the `trailer_sha256` of the producer's segment before. `totals` covers
    events and dead letters.
    """

    producer_id: str
    segment: int
    kind: str
    rows: int
    rows_before: int
    sealed_at: int
    sha256: str
    previous_sha256: str | None
    events: pa.Table  # of USAGE_EVENT; texts may be dictionary codes, quantities narrower decimals
    dead_letters: pa.Table
    totals: pa.Table
    dropped: int = 0
    trailer_sha256: str | None = None
