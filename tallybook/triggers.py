"""When a step is due: a grid of instants, or a local time of day; and the hours and months that are done one by one.

Enters: words of the settings ("every 5 minutes", "hourly at :20", "daily at 04:00", "off") and a zone. Leaves: the last
instant at or before now, and the next one after. Refuses: words that it does not know, and to read a clock.

A local time that the clock skips is the first instant after the gap, one that comes twice its first occurrence
(metering.periods), so that every date has exactly one. Grids are counted in UTC from 1970: a day of 25 hours has 25 hours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Protocol

from metering.clock import EPOCH
from metering.periods import WallPeriod, add_months, wall_to_instant, zone
from tallybook.errors import BadSettings

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
# A month has begun somewhere on earth so long before it begins in UTC, and is over everywhere so long after.
ZONES_WIDEST = timedelta(hours=14)
_UNITS = {"second": timedelta(seconds=1), "minute": timedelta(minutes=1), "hour": HOUR, "day": DAY}
_EVERY = re.compile(r"every (?:([0-9]{1,4}) )?(second|minute|hour|day)s?")
_HOURLY = re.compile(r"hourly at :([0-5][0-9])")
_DAILY = re.compile(r"daily at ([01][0-9]|2[0-3]):([0-5][0-9])")
GRAMMAR = '"every 5 minutes", "hourly at :20", "daily at 04:00" or "off"'


class Trigger(Protocol):
    """Instants at which a step is due, in order."""

    def last_at(self, now: datetime) -> datetime:
        """Return the last instant at or before `now`."""

    def next_after(self, now: datetime) -> datetime:
        """Return the first instant after `now`."""


@dataclass(frozen=True, slots=True)
class Every:
    """A grid in UTC: every `length` since 1970, moved by `offset`."""

    length: timedelta
    offset: timedelta = timedelta(0)

    def last_at(self, now: datetime) -> datetime:
        start = EPOCH + self.offset
        return start + (now - start) // self.length * self.length

    def next_after(self, now: datetime) -> datetime:
        return self.last_at(now) + self.length


@dataclass(frozen=True, slots=True)
class Daily:
    """Once per local date, at a wall time of a zone."""

    at: time
    timezone: str

    def last_at(self, now: datetime) -> datetime:
        return max(one for one in self._around(now) if one <= now)

    def next_after(self, now: datetime) -> datetime:
        return min(one for one in self._around(now) if one > now)

    def _around(self, now: datetime) -> list[datetime]:
        today = now.astimezone(zone(self.timezone)).date()
        # A zone may skip a whole date, and its time of day is then that of the next date: two dates either way.
        dates = [today + timedelta(days=days) for days in range(-2, 3)]
        return [wall_to_instant(datetime.combine(date, self.at), self.timezone) for date in dates]


def parse_trigger(text: str, timezone: str) -> Trigger | None:
    """Return the trigger that words of the settings mean; None: off. Raises BadSettings."""
    if text == "off":
        return None
    if found := _EVERY.fullmatch(text):
        length = int(found[1] or 1) * _UNITS[found[2]]
        if length > timedelta(0):
            return Every(length)
    if found := _HOURLY.fullmatch(text):
        return Every(HOUR, timedelta(minutes=int(found[1])))
    if found := _DAILY.fullmatch(text):
        zone(timezone)
        return Daily(time(int(found[1]), int(found[2])), timezone)
    raise BadSettings(f"a step cannot run {text!r}; write {GRAMMAR}")


def floor_hour(instant: datetime) -> datetime:
    """Return the beginning of the hour of an instant, in UTC."""
    return Every(HOUR).last_at(instant.astimezone(UTC))


def floor_month(instant: datetime) -> datetime:
    """Return the beginning of the calendar month of an instant in UTC."""
    return instant.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def month_from(start: datetime) -> tuple[str, WallPeriod]:
    """Return the month that begins at a wall time written as if it were UTC (as closes stand in the books), and its name."""
    wall = start.astimezone(UTC).replace(tzinfo=None)
    return f"{wall:%Y-%m}", WallPeriod(wall, add_months(wall, 1))
