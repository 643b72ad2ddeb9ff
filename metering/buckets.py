"""Buckets of time: where hours, days, weeks and months of a zone begin, and stretches of a fixed length.

Enters: words (`hour`, `day`, `week`, `month`, or a length such as `5m`), a zone, and the instants to cover.
Leaves: instants in UTC. Refuses: lengths that are not whole seconds, and to count 24 hours as a day.
Source: price models, sections 1.5 and 1.6. Calendar buckets are cut in the zone, weeks from Monday; fixed ones by instants.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from metering.errors import BadPeriod
from metering.periods import CALENDAR_ANCHOR, BillingCycle, zone

CALENDAR_BUCKETS: Final = ("hour", "day", "week", "month")
_LENGTH = re.compile(r"([1-9][0-9]{0,5})([smh])")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_HOUR = timedelta(hours=1)


def bucket_length_us(text: str) -> int | None:
    """Return the microseconds of a fixed bucket such as `5m`, `30s` or `1h`; None for one of the calendar's.

    Raises BadPeriod for any other text.
    """
    if text in CALENDAR_BUCKETS:
        return None
    found = _LENGTH.fullmatch(text)
    if found is None:
        raise BadPeriod(
            f"{text!r} is no length of a bucket; write hour, day, week or month, or a fixed length such as 30s, 5m or 1h"
        )
    return int(found[1]) * _SECONDS[found[2]] * 1_000_000


def bucket_starts(unit: str, timezone: str, start: datetime, end: datetime) -> tuple[datetime, ...]:
    """Return where the calendar buckets begin that [start, end) touches, in order; the first may begin before `start`."""
    if unit == "hour":
        return _hour_starts(timezone, start, end)
    cycle = BillingCycle(unit, CALENDAR_ANCHOR, timezone)  # type: ignore[arg-type]
    number = cycle.number_at(start)
    starts: list[datetime] = []
    while (begins := cycle.boundary(number)) < end:
        # A zone that crossed the date line skipped a whole day: that one has no instants.
        if not starts or begins > starts[-1]:
            starts.append(begins)
        number += 1
    return tuple(starts)


def _hour_starts(timezone: str, start: datetime, end: datetime) -> tuple[datetime, ...]:
    # An hour begins whenever the zone's clock shows a full one: a repeated hour is two buckets, and where the clock moves
    # by half an hour one bucket is longer. Walked from a midnight, so that a change in between cannot mislead.
    starts: list[datetime] = []
    at = bucket_starts("day", timezone, start - _HOUR, start)[0]
    while at < end:
        minutes = at.astimezone(zone(timezone)).minute
        if minutes:
            at += timedelta(minutes=60 - minutes)
            continue
        if at <= start:
            starts = [at]
        else:
            starts.append(at)
        at += _HOUR
    return tuple(starts)


def bucket_key(start: datetime) -> str:
    """Return the key of a bucket: its start in UTC, such as 2026-01-01T00:00:00Z."""
    return start.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
