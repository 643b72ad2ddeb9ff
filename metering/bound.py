"""A bound meter: one meter, tenant and set of attributes, checked once. The fastest way to record.

Enters: a quantity. Leaves: a row in the journal, stored in the calling thread. Refuses: what `Recorder.record` refuses.
"""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING

from metering.forks import here as _here
from metering.journal import NO_SEGMENT, pack_event
from metering.journal_format import WHOLE, WHOLE_BITS
from metering.series import Series

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable
    from datetime import datetime

    from metering.events import AttributeValue
    from metering.journal import Segment
    from metering.recorder import Recorder
    from metering.series import Quantity

# What a row needs, in the order of its use: its segment, the next free slot, the clock, the pages, the slot of its series.
# These change together: one tuple, so that no thread reads one without the others; and looking them up took an eighth of
# what a row costs.
Place = tuple["Segment", "Callable[[], int]", "Callable[[], int]", "mmap.mmap", int]


def place_in(segment: Segment, now_ns: Callable[[], int], series: int) -> Place:
    return segment, segment.claim, now_ns, segment.pages, series


class Bound:
    """One meter, tenant and set of attributes, checked once. Holds no rows. Safe for all threads."""

    __slots__ = ("_place", "_recorder", "attributes", "checked", "meter", "tenant")

    def __init__(
        self, recorder: Recorder, meter: str, tenant: str, attributes: dict[str, AttributeValue | None]
    ) -> None:
        self._recorder = recorder
        self.meter = meter
        self.tenant = tenant
        self.attributes = attributes
        # What was checked, and the dictionary of checks that it was checked under.
        self.checked: tuple[object, Series] = (None, Series(b"", False, None))
        self._place: Place = place_in(NO_SEGMENT, time.time_ns, 0)

    def add(
        self,
        quantity: Quantity = 1,
        # Name these where you call. A default that can only be named costs a look-up per call, all three a tenth of a row.
        event_time: datetime | None = None,
        key: str | None = None,
        ack: str | None = None,
    ) -> None:
        """Record one usage event, as `Recorder.record` does, with the same errors."""
        segment, claim, now_ns, pages, series = self._place
        try:
            if (
                event_time is None
                and key is None
                and ack is None
                and type(quantity) is int
                and not quantity >> WHOLE_BITS
                and _here[0]
            ):
                offset, now = claim(), now_ns()
                pack_event(pages, offset, quantity, now, quantity ^ series ^ now, series, WHOLE)
                if segment.is_open or segment.holds(offset):
                    return
        except (TypeError, ValueError, struct.error):
            pass
        self._place = self._recorder._add_slowly(self, quantity, event_time, key, ack)  # noqa: SLF001 - as above
