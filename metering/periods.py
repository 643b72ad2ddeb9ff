"""Spans of time: what `2026-10` means, and where billing periods begin and end.

Enters: words of people (`2026-10`, a zone, an anchor). Leaves: half-open periods [start, end) of exact instants in UTC.
Refuses: to guess a zone, and to count days: a boundary is a local wall time turned into an instant by zone rules.

A wall time that the clock skips becomes the first instant after the gap; a repeated one its first occurrence. Boundary n
is worked out from the *original* anchor each time, the day clamped to its month (31 Jan -> 28 Feb -> 31 Mar), so that
periods never drift. Source: price models, sections 5.1 and 5.2.
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from metering.clock import iso_utc
from metering.errors import BadPeriod

Every = Literal["day", "week", "month", "quarter", "year"]

_MONTHS = {"month": 1, "quarter": 3, "year": 12}
_DAYS = {"day": 1, "week": 7}


@dataclass(frozen=True, slots=True, order=True)
class Period:
    """A span [start, end) of exact instants; both aware, in UTC."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.end.tzinfo is None or self.end <= self.start:
            raise BadPeriod(f"a period must end after it starts, with zones: {self.start} to {self.end}")

    def __contains__(self, instant: datetime) -> bool:
        return self.start <= instant < self.end

    def __str__(self) -> str:
        return f"[{iso_utc(self.start)}, {iso_utc(self.end)})"


@dataclass(frozen=True, slots=True)
class WallPeriod:
    """A span of local time, such as "October 2026", that becomes a Period once a zone is named."""

    start: datetime
    end: datetime

    def in_zone(self, timezone: str) -> Period:
        """Return the instants of this span in a zone; October in New York begins four hours after October in UTC."""
        return Period(wall_to_instant(self.start, timezone), wall_to_instant(self.end, timezone))


def parse_period(text: str) -> WallPeriod:
    """Return the span that `2026`, `2026-10`, `2026-10-05` or `2026-10-01..2026-11-01` (end open) means. Raises BadPeriod."""
    if ".." in text:
        first, _, last = text.partition("..")
        start, end = _day(first, text), _day(last, text)
    elif re.fullmatch(r"[0-9]{4}", text):
        start, end = _day(f"{text}-01-01", text), _day(f"{int(text) + 1:04}-01-01", text)
    elif re.fullmatch(r"[0-9]{4}-[0-9]{2}", text):
        start = _day(f"{text}-01", text)
        end = add_months(start, 1)
    else:
        start = _day(text, text)
        end = start + timedelta(days=1)
    if end <= start:
        raise BadPeriod(f"period {text!r} ends before it starts; write START..END with the end open")
    return WallPeriod(start, end)


@cache
def zone(name: str) -> ZoneInfo:
    """Return an IANA time zone by name. Raises BadPeriod when there is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadPeriod(f"time zone {name!r} is not known; use an IANA name such as UTC or Europe/Paris") from error


def wall_to_instant(wall: datetime, timezone: str) -> datetime:
    """Return the instant of a local wall time. A skipped time is the first instant after the gap, a repeated one its first."""
    local = wall.replace(tzinfo=zone(timezone), fold=0)
    instant = local.astimezone(UTC)
    if instant.astimezone(zone(timezone)).replace(tzinfo=None) == wall:
        return instant
    # The clock skips this wall time. The gap ends where the offset changes, somewhere between the two readings of it.
    low, high = local.replace(fold=1).astimezone(UTC), instant
    offset_after = high.astimezone(zone(timezone)).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = low + (high - low) // 2
        if middle.astimezone(zone(timezone)).utcoffset() == offset_after:
            high = middle
        else:
            low = middle
    return high.replace(microsecond=0)


def add_months(start: datetime, months: int) -> datetime:
    """Return the same day and time some months later (or earlier), the day clamped to its month."""
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    day = min(start.day, calendar.monthrange(year, month + 1)[1])
    return start.replace(year=year, month=month + 1, day=day)


@dataclass(frozen=True, slots=True)
class BillingCycle:
    """The endless row of billing periods around an anchor: every `interval` days, weeks, months, quarters or years.

    `anchor` is local wall time in `timezone`. Calendar billing is an anchor on the 1st (a Monday, 1 January).
    """

    every: Every
    anchor: datetime
    timezone: str = "UTC"
    interval: int = 1

    def boundary(self, number: int) -> datetime:
        """Return the instant at which period `number` begins; period 0 begins at the anchor, negative ones before it."""
        steps = number * self.interval
        if self.every in _MONTHS:
            wall = add_months(self.anchor, steps * _MONTHS[self.every])
        else:
            wall = self.anchor + timedelta(days=steps * _DAYS[self.every])
        return wall_to_instant(wall, self.timezone)

    def number_at(self, instant: datetime) -> int:
        """Return the number of the period that contains an instant; an instant on a boundary begins the period."""
        local = instant.astimezone(zone(self.timezone)).replace(tzinfo=None)
        if self.every in _MONTHS:
            months = (local.year - self.anchor.year) * 12 + local.month - self.anchor.month
            number = months // (_MONTHS[self.every] * self.interval)
        else:
            number = (local - self.anchor) // timedelta(days=_DAYS[self.every] * self.interval)
        # The estimate may be off by one where a day was clamped or a clock changed.
        while self.boundary(number) > instant:
            number -= 1
        while self.boundary(number + 1) <= instant:
            number += 1
        return number

    def period_at(self, instant: datetime) -> Period:
        """Return the billing period that contains an instant."""
        number = self.number_at(instant)
        return Period(self.boundary(number), self.boundary(number + 1))

    def periods_ending_in(self, span: Period) -> list[Period]:
        """Return the billing periods whose last instant lies in a span: their end is in (span.start, span.end]."""
        number = self.number_at(span.start)
        periods = []
        while (end := self.boundary(number + 1)) <= span.end:
            start = self.boundary(number)
            # A zone that crossed the date line skipped a whole day: that one has no instants, and is no period.
            if start < end:
                periods.append(Period(start, end))
            number += 1
        return periods


# Wall time of every calendar anchor: 2001-01-01 is a Monday, the 1st of a month, of a quarter and of a year.
CALENDAR_ANCHOR = datetime(2001, 1, 1)  # noqa: DTZ001


def _day(text: str, whole: str) -> datetime:
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise BadPeriod(
            f"period {whole!r} is not understood; write 2026, 2026-10, 2026-10-05 or 2026-10-01..2026-11-01"
        ) from error
    return datetime.combine(day, datetime.min.time())
