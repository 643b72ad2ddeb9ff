"""What to ask of usage for one metered entitlement, and what the answers mean: the state of one feature of one tenant.

Enters: an `Entitled` and its meter, from one instant to another. Leaves: questions to usage, and from the answers an
`EntitlementState` that explains itself. Refuses: to ask by itself; whoever has all questions asks them at once (`ask_usage`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING

from entitlements.burndown import ZERO, Grant, Run, Segment, State, Used, burn_down, burn_order, ceiling
from entitlements.decisions import Decision
from metering.measures import PLAIN
from metering.numbers import exact_difference, exact_sum
from metering.usage import Selector, Span, aggregate
from rating.entitled import INSTANT, Entitled

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import duckdb

    from metering.catalog import Meter

# One question to usage: whose, of which meter, from when to when.
Asked = tuple[str, str, datetime, datetime]
# A window of a hard limit that is over, and what leases were granted in it.
Leased = tuple[datetime, datetime, Decimal]


@dataclass(frozen=True, slots=True)
class GrantState:
    """One grant at an instant: what it was, and what is left of it. In units of the meter."""

    grant: Grant
    balance: Decimal


@dataclass(frozen=True, slots=True)
class EntitlementState:
    """One feature of one tenant at an instant. Quantities are in units of the meter and count since the last reset.

    `limit` None: no limit. `segments` are the stretches that led here, each with what was there, used and burned.
    """

    entitled: Entitled
    limit: Decimal | None = None
    used: Decimal = ZERO
    remaining: Decimal | None = None
    overage: Decimal = ZERO
    resets_at: datetime | None = None
    grants: tuple[GrantState, ...] = ()
    segments: tuple[Segment, ...] = ()

    @property
    def decision(self) -> Decision:
        """Return what a check for nothing in particular answers: is anything left?"""
        entitlement, source = self.entitled.entitlement, self.entitled.source
        names = {"tenant": self.entitled.tenant, "feature": entitlement.feature}
        if entitlement.type != "metered" or self.remaining is None:
            is_on = entitlement.enabled is not False
            value, reason = entitlement.typed_value, "granted" if is_on else "switched_off"
            return Decision.of(is_on, reason, used=self.used, value=value, source=source, **names)  # type: ignore[arg-type]
        # Use that was taken back is overage below zero.
        left = exact_difference(self.remaining, self.overage)
        more = {
            "limit": self.limit,
            "used": self.used,
            "remaining": left,
            "resets_at": self.resets_at,
            "source": source,
        }
        if left > 0:
            return Decision.of(True, "within_quota", **names, **more)  # type: ignore[arg-type]
        reason = "quota_exhausted" if entitlement.stops else "soft_limit_exceeded"
        return Decision.of(not entitlement.stops, reason, **names, **more)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One window [start, end) of a metered entitlement: what was used in it, and the balance at its start."""

    start: datetime
    end: datetime
    usage: Decimal
    balance_at_start: Decimal


class UsagePlan:
    """What to ask of usage for one metered entitlement from one instant to another, and what the answers mean."""

    def __init__(
        self,
        entitled: Entitled,
        meter: Meter,
        start: datetime,
        until: datetime,
        cuts: Iterable[datetime] = (),
        leased: Sequence[Leased] = (),
    ) -> None:
        self._entitled, self._meter, self._leased = entitled, meter, leased
        self._start, self._until = start, until
        self.resets = entitled.resets(start, until)
        self.is_ceiling = is_ceiling(meter)
        if self.is_ceiling:
            self._start = entitled.last_reset(until)
            self._bounds = [self._start, until]
        else:
            free = {cut for span in entitled.uncounted for cut in span}
            inside = {*cuts, *self.resets, *free, *_cuts(entitled.grants, start, until)}
            self._bounds = sorted({start, until, *(cut for cut in inside if start < cut < until)})

    @property
    def asked(self) -> list[Asked]:
        """Return the questions: each stretch by itself, or (for what is unique) from the last reset to its end."""
        tenant, meter = self._entitled.tenant, self._meter.name
        return [(tenant, meter, start, end) for start, end in self._spans() if start < end]

    def _spans(self) -> list[tuple[datetime, datetime]]:
        pairs = list(pairwise(self._bounds))
        if self._meter.aggregation != "unique_count":
            return pairs
        return [(self._since_reset(start), end) for start, end in pairs]

    def _since_reset(self, at: datetime) -> datetime:
        return max([self._start, *(reset for reset in self.resets if reset <= at)])

    def used(self, usage: Mapping[Asked, Decimal]) -> list[Used]:
        """Return what was used in each stretch, as of its beginning: nothing of the grants changes within one."""
        found: list[Used] = []
        before = ZERO
        for (start, end), at in zip(self._spans(), self._bounds, strict=False):
            quantity = usage.get((self._entitled.tenant, self._meter.name, start, end), ZERO)
            if self._meter.aggregation == "unique_count":
                # What was seen earlier in the period is not used again: the difference of two counts from its start.
                before = ZERO if start == at else before
                quantity, before = exact_difference(quantity, before), quantity
            if self._entitled.counts(at):
                found.append(Used(at, quantity))
        return self._with_leased(found)

    def _with_leased(self, used: list[Used]) -> list[Used]:
        """Add what leases were granted in windows that are over and usage does not say: it is used until it is accounted for.

        Else what is carried over a reset could be granted twice: once to a process whose usage has not arrived, or that
        died, and once more. It burns at the window's end, where what is carried is what is left.
        """
        more = []
        for start, end, granted in self._leased:
            inside = [one for one in used if start <= one.at < end]
            rest = exact_difference(granted, *(one.quantity for one in inside))
            if inside and rest > 0:
                more.append(Used(inside[-1].at, rest))
        return sorted([*used, *more], key=lambda one: one.at) if more else used

    def state(self, usage: Mapping[Asked, Decimal], at: datetime) -> EntitlementState:
        entitled = self._entitled
        resets_at = entitled.next_reset(at)
        if self.is_ceiling:
            return self._ceiling(usage, at, resets_at)
        used = self.used(usage)
        if not entitled.is_limited:
            since = entitled.last_reset(at)
            total = exact_sum(one.quantity for one in used if one.at >= since)
            return EntitlementState(entitled, used=total, resets_at=resets_at)
        run = self.run(used, at)
        end = run.state
        # What was gone before the last reset says nothing of what is there now.
        current = [one for one in entitled.grants if one.ends_at > entitled.last_reset(at)]
        return EntitlementState(
            entitled,
            limit=end.available,
            used=end.usage,
            remaining=end.balance,
            overage=end.overage,
            resets_at=resets_at,
            grants=tuple(GrantState(one, end.balances.get(one.id, ZERO)) for one in burn_order(current)),
            segments=run.segments,
        )

    def run(self, used: Sequence[Used], until: datetime, start: State | None = None) -> Run:
        begin = start or state_at(self._entitled.grants, self._start)
        resets = [reset for reset in self.resets if begin.at < reset <= until]
        keeping = self._entitled.keeping(begin.at, until)
        return burn_down(self._entitled.grants, used, begin, until, resets=resets, keep_overage=keeping)

    def rows(self, usage: Mapping[Asked, Decimal], bounds: Sequence[datetime]) -> list[HistoryRow]:
        used = self.used(usage)
        state = state_at(self._entitled.grants, self._start)
        rows = []
        for start, end in pairwise(bounds):
            if start > state.at:
                state = self.run(used, start, state).state
            quantity = exact_sum(one.quantity for one in used if start <= one.at < end)
            rows.append(HistoryRow(start, end, quantity, state.balance))
        return rows

    def _ceiling(self, usage: Mapping[Asked, Decimal], at: datetime, resets_at: datetime | None) -> EntitlementState:
        entitled = self._entitled
        used = usage.get((entitled.tenant, self._meter.name, self._bounds[0], self._bounds[-1]), ZERO)
        if not entitled.is_limited:
            return EntitlementState(entitled, used=used, resets_at=resets_at)
        active = [one for one in burn_order(entitled.grants) if one.is_active(at)]
        limit = exact_sum(one.amount for one in active)
        left = exact_difference(limit, used)
        balances = ceiling(active, used, at).balances
        grants = tuple(GrantState(one, balances[one.id]) for one in active)
        over = max(ZERO, exact_difference(used, limit))
        return EntitlementState(entitled, limit, used, max(ZERO, left), over, resets_at, grants=grants)


def ask_usage(
    engine: duckdb.DuckDBPyConnection, asked: Iterable[Asked], meters: Mapping[str, Meter]
) -> dict[Asked, Decimal]:
    """Return what was used of each (tenant, meter, start, end) with any use, in units of the meter, as it aggregates.

    The engine holds the evidence; its tables of questions and of `usage` are replaced.
    """
    questions = sorted(set(asked))
    if not questions:
        return {}
    named = {meter for _, meter, *_ in questions}
    spans = [Span(number, tenant, meter, start, end) for number, (tenant, meter, start, end) in enumerate(questions)]
    selectors = [
        Selector(name, name, name, meter.aggregation, meter.unique_attribute, measure=meter.measure)
        for name, meter in sorted(meters.items())
        if name in named
    ]
    aggregate(engine, spans, selectors)
    rows = engine.execute("SELECT span_id, quantity FROM usage WHERE quantity IS NOT NULL").fetchall()
    return {questions[number]: quantity for number, quantity in rows}


def is_ceiling(meter: Meter) -> bool:
    """Return whether the usage of a period is not the sum of what was used in its stretches."""
    return meter.aggregation not in {"count", "sum", "unique_count"} or meter.measure != PLAIN


def _cuts(grants: Iterable[Grant], start: datetime, until: datetime) -> set[datetime]:
    found = set()
    for grant in grants:
        found |= {grant.effective_at, grant.ends_at, *grant.recurrences(start, until)}
    return found


def state_at(grants: Iterable[Grant], at: datetime) -> State:
    """Return the state from which nothing depends on the past: at the beginning, or just after such a reset."""
    # Whatever began before counts as full: grants from before the first use, and quotas that the reset made full.
    return State(at, {grant.id: grant.amount for grant in grants if grant.is_active(at)})


def _recurs_at(grant: Grant, at: datetime) -> bool:
    cycle = grant.recurrence
    return cycle is not None and cycle.period_at(at).start == at


def begin_of(entitled: Entitled, at: datetime) -> datetime:
    """Return the latest reset after which nothing depends on what was before it, or the beginning."""
    start = entitled.last_reset(at)
    while start > entitled.measured_from:
        keeps = start in entitled.keeping(start - INSTANT, start)
        if not keeps and all(_is_renewed(grant, start) for grant in entitled.grants):
            return start
        start = entitled.last_reset(start - INSTANT)
    return entitled.measured_from


def _is_renewed(grant: Grant, reset: datetime) -> bool:
    """Return whether what is left of a grant just after a reset is the same whatever was left before."""
    if not grant.is_active(reset) or grant.effective_at == reset or _recurs_at(grant, reset):
        return True
    return grant.rollover_min == grant.rollover_max == grant.amount
