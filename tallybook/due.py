"""What is due: the next period of a step, when it may begin, and what it waits for.

Enters: the table of steps, the markers of the books, settings, an instant. Leaves: a `Next`, and the first obstacle in words.
Refuses: to look at a clock, or to change anything; the same markers and the same instant give the same answer to every scheduler.

A period follows from the marker, never from the clock: after downtime every missed hour and month is next in turn, one by one.
A pass has no periods: however much time it missed, it is due once, for the last instant for which all that it waits for was done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from metering.clock import EPOCH, iso_utc
from tallybook.steps import BY_NAME
from tallybook.triggers import DAY, HOUR, ZONES_WIDEST, floor_hour, floor_month, month_from

if TYPE_CHECKING:
    from tallybook.run_books import Marker
    from tallybook.settings import RunSettings
    from tallybook.steps import Step

# A host that shipped nothing for so long is gone; closes do not wait for it. What its journal holds is booked later.
HOST_GONE_AFTER = DAY
MOMENT = timedelta(microseconds=1)
# What no adapter could deliver for so long is what a reconciliation is there to find; it does not wait for longer.
ADAPTER_AWAY_FOR = DAY
Markers = Mapping[tuple[str, str], "Marker"]


@dataclass(frozen=True, slots=True)
class Next:
    """The next run of a step: its period, what `done_until` becomes by it, from when on it may begin, and since when it is due:
    a pass since the first instant that it missed."""

    period: str
    done_until: datetime
    due_at: datetime
    since: datetime


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides beside the markers. `end_of` says when a month is over in the zones of all plans."""

    run: RunSettings
    settle: timedelta
    end_of: Callable[[str], datetime]

    def first_until(self, step: Step, now: datetime) -> datetime:
        """Return where the marker of a step that never ran begins: months and hours before it are not ours."""
        since = self.run.since
        begin = now if since is None else datetime(since.year, since.month, since.day, tzinfo=UTC)
        if step.grain == "hour":
            return floor_hour(begin)
        if step.grain == "month":
            return floor_month(begin)
        trigger = self.run.trigger_of(step.name)
        # A pass that never ran is due at once, and since the last instant of its trigger.
        return EPOCH if trigger is None else trigger.last_at(now) - MOMENT

    def next_of(self, step: Step, marker: Marker, markers: Markers, now: datetime) -> Next | None:
        """Return what a step does next; None: it is off."""
        if self.run.is_off(step.name):
            return None
        if step.grain == "hour":
            until = marker.done_until + HOUR
            return Next(iso_utc(marker.done_until), until, until + self.settle, until + self.settle)
        if step.grain == "month":
            return self._month(marker, now)
        trigger = self.run.trigger_of(step.name)
        if trigger is None:
            return None
        last = trigger.last_at(now)
        if last > marker.done_until:
            since = last if marker.done_until == EPOCH else trigger.next_after(marker.done_until)
            # Two that are due often each at a pace of its own would wait for each other for ever at the newest instant.
            met = trigger.last_at(min([now, *self._began(step, markers, now)]))
            instant = met if met > marker.done_until else last
            return Next(iso_utc(instant), instant, instant, since)
        if any(one.done > marker.begun for name in step.follows for one in _of(markers, name)):
            return Next(iso_utc(now), marker.done_until, now, now)
        coming = trigger.next_after(now)
        return Next(iso_utc(coming), coming, coming, coming)

    def _began(self, step: Step, markers: Markers, now: datetime) -> list[datetime]:
        """Return when the passes that a step waits for began last."""
        return [
            one.began_at
            for name in step.needs
            if BY_NAME[name].grain == "pass" and not self.run.is_off(name)
            for one in self._that_count(BY_NAME[name], markers, now)
            if one.began_at is not None
        ]

    @staticmethod
    def _that_count(needed: Step, markers: Markers, now: datetime) -> list[Marker]:
        """Return the markers of a pass that others wait for: a host that shipped nothing for long is gone."""
        held = _of(markers, needed.name)
        if needed.scope != "host":
            return held
        return [one for one in held if one.began_at is None or one.began_at > now - HOST_GONE_AFTER]

    def _month(self, marker: Marker, now: datetime) -> Next:
        name, wall = month_from(marker.done_until)
        until = wall.end.replace(tzinfo=UTC)
        grace = timedelta(minutes=self.run.grace_minutes)
        # The zones of the plans are asked only when the month is over somewhere; until then it is not due, whatever they are.
        ends = until if until - ZONES_WIDEST + grace > now else self.end_of(name)
        return Next(name, until, ends + grace, ends + grace)

    def obstacle(self, step: Step, coming: Next, marker: Marker, markers: Markers, now: datetime) -> str | None:
        """Return why a step cannot begin now; None: it can."""
        if coming.due_at > now:
            return f"due at {iso_utc(coming.due_at)}"
        if marker.retry_at is not None and marker.retry_at > now:
            return f"failed {marker.failures} times; tried again at {iso_utc(marker.retry_at)}"
        if not marker.is_free(now):
            return f"{marker.holder} is at it"
        for name in step.after:
            if not self.run.is_off(name) and any(one.done_until < marker.done_until for one in _of(markers, name)):
                return f"waits for {name} of what was before"
        for name in step.needs:
            if not self.run.is_off(name) and not self._is_met(step, name, coming, markers, now):
                return f"waits for {name}"
        return None

    def _is_met(self, step: Step, need: str, coming: Next, markers: Markers, now: datetime) -> bool:
        needed = BY_NAME[need]
        held = _of(markers, need)
        if needed.grain == step.grain != "pass":
            return all(one.done_until >= coming.done_until for one in held) and bool(held)
        if needed.grain != "pass":
            # A pass that books waits until the months that are over are done.
            nexts = [self.next_of(needed, one, markers, now) for one in held]
            return all(one is None or one.due_at > now for one in nexts)
        held = self._that_count(needed, markers, now)
        # What the step is made of was there before the pass began.
        made = [one for name in step.needs if BY_NAME[name].grain == step.grain != "pass" for one in _of(markers, name)]
        since = max((one.done for one in made), default=0)
        if not held:
            return needed.scope == "adapter"
        if needed.scope == "adapter" and all(one.began_at and one.began_at <= now - ADAPTER_AWAY_FOR for one in made):
            return bool(made)
        return all(one.begun > since and one.began_at is not None and one.began_at >= coming.due_at for one in held)


def _of(markers: Markers, step: str) -> list[Marker]:
    return [marker for (name, _place), marker in markers.items() if name == step]
