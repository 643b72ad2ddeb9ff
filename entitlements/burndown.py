"""The burn-down: what grants are left of a quota after usage, exactly, from any instant to any later one.

Enters: grants, usage with its times, resets, and the state to begin from. Leaves: the state at the end, and the segments
in between, each of which explains itself. Pure: no clock, no storage, no float; a run in pieces is the run at once.
Refuses: resets before the start, and to hide what no grant covered: it is overage, and is carried.

A segment is a stretch of time in which no grant begins, ends or recurs. What counts in it is its use as a whole: use that is
taken back in it gives back what it had burned; taken back later it is overage below zero, which pays for use to come. So a
run that stops within a segment says what was burned in it so far (`State.burned`), and the next one goes on from there.
Source: price models, section 8; the numbers in the comments are its steps.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

from metering.numbers import exact_arithmetic, exact_sum

if TYPE_CHECKING:
    from metering.periods import BillingCycle

ZERO = Decimal(0)
FOREVER = datetime.max.replace(tzinfo=UTC)
# Whether all resets keep what is over, or which of them do.
Kept = bool | Collection[datetime]


@dataclass(frozen=True, slots=True)
class Grant:
    """An amount of use, in units of the meter, over [effective_at, end); burned by priority, lower first.

    `recurrence`: at each of its boundaries the balance is set to the amount again; nothing stacks. At a reset the balance
    becomes min(rollover_max, max(rollover_min, balance)): by default nothing is left.
    """

    id: str
    amount: Decimal
    effective_at: datetime
    priority: int = 1
    expires_at: datetime | None = None
    voided_at: datetime | None = None
    created_at: datetime | None = None
    recurrence: BillingCycle | None = None
    rollover_min: Decimal = ZERO
    rollover_max: Decimal = ZERO

    @property
    def ends_at(self) -> datetime:
        """Return the first instant at which it is gone, with whatever was left of it."""
        return min(self.expires_at or FOREVER, self.voided_at or FOREVER)

    def is_active(self, at: datetime) -> bool:
        return self.effective_at <= at < self.ends_at

    def rolled_over(self, balance: Decimal) -> Decimal:
        return min(self.rollover_max, max(self.rollover_min, balance))

    def recurs_at(self, at: datetime) -> bool:
        """Return whether it becomes full again at this very instant."""
        cycle = self.recurrence
        is_there = cycle is not None and self.effective_at < at and self.is_active(at)
        return is_there and cycle is not None and cycle.boundary(cycle.number_at(at)) == at

    def recurrences(self, after: datetime, until: datetime) -> list[datetime]:
        """Return when it becomes full again in (after, until], while it is active."""
        if self.recurrence is None:
            return []
        number = self.recurrence.number_at(after) + 1
        found = []
        while (at := self.recurrence.boundary(number)) <= until:
            # At the instant at which it becomes effective it is full anyway.
            if self.effective_at < at and self.is_active(at):
                found.append(at)
            number += 1
        return found


@dataclass(frozen=True, slots=True)
class Used:
    """So much was used at an instant, in units of the meter; negative where the meter lets use be taken back."""

    at: datetime
    quantity: Decimal


@dataclass(frozen=True, slots=True)
class State:
    """Where a burn-down stands. `usage` and `granted_usage` count since the last reset; the second is what grants paid.

    `burned` is what was burned of each grant in the segment that is not over at this instant. `overage` below zero is use
    that was taken back and pays for use to come.
    """

    at: datetime
    balances: Mapping[str, Decimal] = field(default_factory=dict)
    overage: Decimal = ZERO
    usage: Decimal = ZERO
    granted_usage: Decimal = ZERO
    burned: Mapping[str, Decimal] = field(default_factory=dict)

    @property
    def balance(self) -> Decimal:
        """Return what is left of all grants together."""
        return exact_sum(self.balances.values())

    @property
    def available(self) -> Decimal:
        """Return what was there since the last reset, used or not; use that no grant covered does not count."""
        return exact_sum([self.granted_usage, *self.balances.values()])


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch in which no grant began, ended or recurred: what was there, what was used, what was burned of each grant.

    `is_reset` marks the instant of a reset; its `burned` is overage that was kept and paid at once. Of the first segment of a
    run that goes on within one, `burned` is what it adds, below zero where use was taken back.
    """

    start: datetime
    end: datetime
    balances_at_start: Mapping[str, Decimal]
    usage: Decimal
    burned: Mapping[str, Decimal]
    balances_at_end: Mapping[str, Decimal]
    overage: Decimal
    is_reset: bool = False


@dataclass(frozen=True, slots=True)
class GrantAccount:
    """What became of one grant in a run, in units of the meter: brought + given = used + remaining + expired + voided.

    `brought` is what was there at the start. `given` counts what it began with, what a recurrence or a reset filled up, and
    `expired` what a reset took away and what was left when it expired; `voided` what was left when it was voided. `used` is
    negative in a run that takes back what an earlier run used.
    """

    brought: Decimal = ZERO
    given: Decimal = ZERO
    used: Decimal = ZERO
    expired: Decimal = ZERO
    voided: Decimal = ZERO
    remaining: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Run:
    """The state at the end of a burn-down, the segments that led to it, and what became of each grant."""

    state: State
    segments: tuple[Segment, ...]
    accounts: Mapping[str, GrantAccount] = field(default_factory=dict)


def is_kept(keep_overage: Kept, reset: datetime) -> bool:
    """Return whether a reset keeps what is over."""
    return keep_overage if isinstance(keep_overage, bool) else reset in keep_overage


def burn_order(grants: Sequence[Grant]) -> list[Grant]:
    """Return grants as they burn: priority, expiry (none last), creation, id."""
    return sorted(
        grants, key=lambda grant: (grant.priority, grant.expires_at or FOREVER, grant.created_at or FOREVER, grant.id)
    )


def burn_down(
    grants: Sequence[Grant],
    usage: Sequence[Used],
    start: State,
    until: datetime,
    *,
    resets: Sequence[datetime] = (),
    keep_overage: Kept = False,
) -> Run:
    """Return the run from a state to an instant. Usage in [start, until) counts; `usage` must be in the order of time.

    A reset at or before the start is refused; one at `until` is taken. A run of no length returns its start unchanged.
    `keep_overage` says whether resets keep what is over, or which of them do; the others forgive it.
    """
    if until < start.at or any(not start.at < reset <= until for reset in resets):
        raise ValueError(f"a burn-down runs forward, with resets after {start.at} and up to {until}")
    if until == start.at:
        return Run(
            start, (), {name: GrantAccount(brought=left, remaining=left) for name, left in start.balances.items()}
        )
    with exact_arithmetic():
        runner = _Runner(burn_order(grants), usage, start)
        for reset in sorted(set(resets)):
            runner.run_to(reset, is_last=False)
            runner.reset(reset, keep_overage=is_kept(keep_overage, reset))
        runner.run_to(until, is_last=True)
        return Run(runner.state(until), tuple(runner.segments), runner.accounts())


@dataclass(frozen=True, slots=True)
class Window:
    """One row of a history: what was used in [start, end), and what was left of all grants at its start."""

    start: datetime
    end: datetime
    usage: Decimal
    balance_at_start: Decimal


def history(
    grants: Sequence[Grant],
    usage: Sequence[Used],
    start: State,
    since: datetime,
    until: datetime,
    length: timedelta,
    *,
    resets: Sequence[datetime] = (),
    keep_overage: Kept = False,
) -> list[Window]:
    """Return the history from `since` in windows of fixed length, the last of which ends at `until` or before it.

    A grant that is effective exactly at the start of a window is in it; one that begins inside shows in the next. A reset
    inside a window does not split its usage. What was used before `start` is not known here. Raises ValueError as burn_down.
    """
    windows = []
    # A run of no length changes nothing, so what begins at the very start is put there by hand.
    begun = {grant.id: grant.amount for grant in grants if grant.effective_at == start.at and grant.is_active(start.at)}
    state, at = replace(start, balances={**start.balances, **begun}), since
    while at + length <= until:
        due = [reset for reset in resets if state.at < reset <= at]
        state = burn_down(grants, usage, state, at, resets=due, keep_overage=keep_overage).state
        used = exact_sum(one.quantity for one in usage if max(at, start.at) <= one.at < at + length)
        windows.append(Window(at, at + length, used, state.balance))
        at += length
    return windows


def ceiling(grants: Sequence[Grant], used: Decimal, at: datetime) -> State:
    """Return where a tenant stands whose meter cannot be burned down: max, last, percentile, levels over time.

    There the grants that are active are one limit, and what the whole period comes to so far is held against it; nothing
    is carried from one stretch to the next. The balance of each grant is what the use leaves of it, in burn order.
    """
    need = max(used, ZERO)
    balances: dict[str, Decimal] = {}
    with exact_arithmetic():
        for grant in burn_order(grants):
            amount = grant.amount if grant.is_active(at) else ZERO
            taken = min(amount, need)
            balances[grant.id] = amount - taken
            need -= taken
        return State(at, balances, overage=need, usage=used, granted_usage=max(used, ZERO) - need)


def in_units_of(quantity: Decimal, units: Decimal) -> Decimal:
    """Return a quantity in larger units, such as bytes in a quota of gigabytes, to 9 places, half away from zero.

    Checks never round up to whole units: 4,250 MB of 5 GB leave 0.75. Raises ValueError unless `units` is above zero.
    """
    if units <= 0:
        raise ValueError(f"a unit is above zero, not {units}")
    scaled = abs(Fraction(quantity)) / Fraction(units) * 10**9
    whole = (2 * scaled.numerator + scaled.denominator) // (2 * scaled.denominator)
    with exact_arithmetic():
        return Decimal(whole if quantity >= 0 else -whole).scaleb(-9)


class _Runner:
    """A state that moves forward, segment by segment."""

    def __init__(self, grants: Sequence[Grant], usage: Sequence[Used], start: State) -> None:
        self._grants = grants
        self._times = [one.at for one in usage]
        self._usage = usage
        self._at = start.at
        self._balances = {grant.id: start.balances.get(grant.id, ZERO) for grant in grants}
        self._overage, self._used, self._granted = start.overage, start.usage, start.granted_usage
        # Of the segment that goes on where the run begins, and of the last one where it ends.
        self._burned = dict(start.burned)
        self._begins_with_reset = False
        self.segments: list[Segment] = []
        # In units of the meter, by what became of them and by grant; what is there is in the balances.
        self._moved: dict[tuple[str, str], Decimal] = {}
        self._brought = {grant.id: start.balances.get(grant.id, ZERO) for grant in grants}

    def state(self, at: datetime) -> State:
        burned = {name: quantity for name, quantity in self._burned.items() if quantity}
        return State(at, dict(self._balances), self._overage, self._used, self._granted, burned)

    def accounts(self) -> dict[str, GrantAccount]:
        """Return what became of each grant so far."""
        names = ("given", "used", "expired", "voided")
        return {
            grant.id: GrantAccount(
                brought=self._brought[grant.id],
                remaining=self._balances[grant.id],
                **{name: self._moved.get((name, grant.id), ZERO) for name in names},
            )
            for grant in self._grants
        }

    def _set(self, grant: Grant, balance: Decimal, lost: str = "expired") -> None:
        """Give a grant another balance; what is more was given, what is less is lost."""
        change = balance - self._balances[grant.id]
        self._move("given" if change > 0 else lost, grant, abs(change))
        self._balances[grant.id] = balance

    def _move(self, name: str, grant: Grant, quantity: Decimal) -> None:
        if quantity:
            self._moved[name, grant.id] = self._moved.get((name, grant.id), ZERO) + quantity

    def run_to(self, end: datetime, *, is_last: bool) -> None:
        """Run from here to `end`, cut wherever a grant begins, ends or recurs (2)."""
        # What recurs at a reset belongs after it; at the very end it makes a segment of no length.
        recurring: dict[datetime, set[str]] = {}
        for grant in self._grants:
            for at in grant.recurrences(self._at, end):
                if at < end or is_last:
                    recurring.setdefault(at, set()).add(grant.id)
            if self._begins_with_reset and grant.recurs_at(self._at):
                recurring.setdefault(self._at, set()).add(grant.id)
        cuts = {at for grant in self._grants for at in (grant.effective_at, grant.ends_at) if self._at < at < end}
        cuts |= {at for at in recurring if self._at < at < end}
        starts = [self._at, *sorted(cuts)]
        ends = [*starts[1:], end]
        if is_last and end in recurring and starts != [end]:
            starts, ends = [*starts, end], [*ends, end]
        for at, until in zip(starts, ends, strict=True):
            if at > starts[0]:
                self._burned = {}
            self._run_segment(at, until, recurring.get(at, set()), is_end=is_last and at == end)
        # A segment of no length goes on after the end; any other is over there if a grant begins or ends.
        if starts[-1] < end and any(end in {grant.effective_at, grant.ends_at} for grant in self._grants):
            self._burned = {}
        # At the very end, what ends is gone, and what begins is there, for whoever goes on from here.
        self._end_grants(end)
        if is_last:
            self._begin_grants(end)
        self._at = end

    def _run_segment(self, start: datetime, end: datetime, recurring: set[str], *, is_end: bool) -> None:
        for grant in self._grants:  # (3)
            if grant.id in recurring:
                self._set(grant, grant.amount)
        self._end_grants(start)
        # A grant that begins at the very end pays nothing before the next run, which begins it again.
        if not is_end:
            self._begin_grants(start)
        before = dict(self._balances)
        first, last = bisect_left(self._times, start), bisect_left(self._times, end)
        used = exact_sum(one.quantity for one in self._usage[first:last])
        self._used += used
        burned = self._burn(used + self._overage)  # (4)
        self.segments.append(Segment(start, end, before, used, burned, dict(self._balances), self._overage))

    def _begin_grants(self, at: datetime) -> None:
        for grant in self._grants:
            if grant.is_active(at) and grant.effective_at == at:
                self._set(grant, grant.amount)

    def _end_grants(self, at: datetime) -> None:
        for grant in self._grants:
            if not grant.is_active(at):
                is_voided = grant.voided_at is not None and grant.voided_at == grant.ends_at
                self._set(grant, ZERO, "voided" if is_voided else "expired")

    def _burn(self, need: Decimal) -> dict[str, Decimal]:
        """Take what is needed from the grants in burn order; return what each gave. What none covered is over.

        What was burned in this segment before is needed again, and taken from all that was there: the whole of it counts.
        """
        before, self._burned = self._burned, {}
        need += sum(before.values(), ZERO)
        burned: dict[str, Decimal] = {}
        for grant in self._grants:
            paid = before.get(grant.id, ZERO)
            taken = min(self._balances[grant.id] + paid, max(need, ZERO))
            need -= taken
            self._burned[grant.id] = taken
            if taken != paid:
                burned[grant.id] = taken - paid
                self._balances[grant.id] -= taken - paid
                self._move("used", grant, taken - paid)
        self._granted += sum(burned.values(), ZERO)
        self._overage = need
        return burned

    def reset(self, at: datetime, *, keep_overage: bool) -> None:
        """Begin anew (6): roll balances over, let them pay the overage that is kept, count from zero."""
        before = dict(self._balances)
        for grant in self._grants:
            # One that becomes effective at this very instant belongs to what comes after.
            is_there = grant.is_active(at) and grant.effective_at < at
            self._set(grant, grant.rolled_over(self._balances[grant.id]) if is_there else ZERO)
        self._used = self._granted = ZERO
        self._burned = {}
        burned = self._burn(self._overage if keep_overage else ZERO)
        # What a reset takes for what was over before is not given back.
        self._burned = {}
        self.segments.append(Segment(at, at, before, ZERO, burned, dict(self._balances), self._overage, is_reset=True))
        self._begins_with_reset = True
        self._at = at
