"""Commitments over several billing periods: one pot, of which every period uses what those before it left.

Enters: the terms, billing spans, and a way to rate others. Leaves: where a span stands in its pots, how much a pot is, and what
of it was used and paid before the span.
Refuses: to store a position. What was used before is a pure function of usage and terms: the net of the lines covered in the
earlier billing periods of the same subscription and plan version, since the pot began. Source: price models, section 4.2.

The earlier periods are rated, whether a close rates them too or not, in one engine and apart from the spans that are asked for.
So a period is worth the same by itself (explain, preview, whatif) and beside many (a close), and nothing of them can be booked.
With them come all spans of their time that may change what they are worth: other subscriptions of the tenant (how late is too
late), and of the account, where it shares a fixed discount.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from metering.engine import fetch, read_sql
from metering.periods import Period
from rating.adjust import PLAN_LIFE
from rating.proration import amount_of_share, share_between
from rating.tables import load_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    import duckdb

    from metering.periods import BillingCycle
    from rating.adjust import Commitment
    from rating.plans import Plan, Subscription
    from rating.spans import BillingSpan, BillingSpans
    from rating.terms import Terms

_ASKED_COLUMNS = {"span_id": "int", "commitment_id": "text", "pot_id": "int", "place": "int"}
MEMBER_COLUMNS = {**_ASKED_COLUMNS, "turn": "int", "scope_id": "int", "paid_scope_id": "int"}


class Spent(NamedTuple):
    """What earlier billing periods had of a pot: the net of its lines, exact, and their sum on paper, true-ups among them."""

    used: Decimal
    paid: Decimal


UNSPENT = Spent(Decimal(0), Decimal(0))


@dataclass(frozen=True, slots=True)
class PotPlace:
    """Where a billing span stands in the pot of a commitment. Numbers are those of the billing cycle.

    `amount` is all of the pot, or, where it is prorated, the share of its billing periods that is served.
    """

    pot: tuple[object, ...]
    first: int
    number: int
    is_last: bool
    amount: Decimal


@dataclass(slots=True)
class Pots:
    """The pots of plans. `together`: the spans that are rated are whole pots, from the first span on, and `spent` is empty."""

    terms: Terms
    together: bool = False
    spent: Mapping[tuple[int, str], Spent] = field(default_factory=dict)
    _numbers: dict[tuple[object, ...], int] = field(default_factory=dict)
    _phases: dict[tuple[object, ...], tuple[BillingCycle, Period]] = field(default_factory=dict)
    _places: dict[tuple[object, ...], tuple[int, int, bool, Decimal]] = field(default_factory=dict)
    _begins: dict[tuple[object, ...], datetime] = field(default_factory=dict)
    _subscriptions: dict[str, list[Subscription]] = field(default_factory=dict)

    def place_of(self, one: Commitment, span: BillingSpan, plan: Plan) -> PotPlace:
        """Return where a span of a plan stands in the pot of one of its commitments."""
        cycle, phase = self.phase_of(span, plan)
        # Most subscriptions of a plan share their cycle and their periods; overrides are of prices alone.
        key = (span.plan, span.plan_version, one.id, cycle, phase, span.period)
        if key not in self._places:
            begun, number = cycle.number_at(phase.start), cycle.number_at(span.period.start)
            first = first_of(one, begun, number)
            is_last = phase.end <= span.period.end
            if one.periods != PLAN_LIFE:
                is_last = is_last or number == first + one.periods - 1
            self._places[key] = first, number, is_last, _amount(one, plan, cycle, phase, first)
        first, number, is_last, amount = self._places[key]
        of = (span.side, span.subscription_id, span.plan, span.plan_version, phase.start, one.id, first)
        return PotPlace(of, first, number, is_last, amount)

    def number_of(self, pot: tuple[object, ...]) -> int:
        """Return the number of a pot, below zero: those of spans are not."""
        return self._numbers.setdefault(pot, -1 - len(self._numbers))

    def phase_of(self, span: BillingSpan, plan: Plan) -> tuple[BillingCycle, Period]:
        """Return the billing cycle of a span, and from when to when its subscription is on its plan version."""
        from rating.terms import NEVER, cycle_of, plans_over_time

        since = span.since or span.service.start
        key = (span.subscription_id, span.plan, span.plan_version, since)
        if key not in self._phases:
            for subscription in self._called(span.subscription_id):
                for held, phase in plans_over_time(self.terms, subscription):
                    of = (subscription.id, held.name, held.version, phase.start)
                    self._phases[of] = cycle_of(subscription, held), phase
        # Spans that no subscription of the terms is behind go on for ever.
        return self._phases.get(key) or (_cycle_alone(span, plan), Period(since, NEVER))

    def _called(self, subscription_id: str) -> Sequence[Subscription]:
        if not self._subscriptions:
            for one in self.terms.subscriptions:
                self._subscriptions.setdefault(one.id, []).append(one)
        return self._subscriptions.get(subscription_id, ())

    def begin_of(self, span: BillingSpan, plan: Plan) -> datetime:
        """Return the start of the first billing period that the pots of a span go back to, those of that one, and so on."""
        cycle, phase = self.phase_of(span, plan)
        key = (span.plan, span.plan_version, cycle, phase, span.period)
        if key not in self._begins:
            begun, number = cycle.number_at(phase.start), cycle.number_at(span.period.start)
            while (first := min(first_of(one, begun, number) for one in plan.pots)) < number:
                number = first
            self._begins[key] = cycle.boundary(number)
        return self._begins[key]


def _amount(one: Commitment, plan: Plan, cycle: BillingCycle, phase: Period, first: int) -> Decimal:
    if one.periods == PLAN_LIFE or not one.prorate:
        return one.amount
    share = _served(plan, cycle, phase, range(first, first + one.periods))
    return one.amount if share == 1 else amount_of_share(one.amount, share)


def first_of(one: Commitment, begun: int, number: int) -> int:
    """Return the number of the first billing period of the pot that a billing period is in."""
    return begun if one.periods == PLAN_LIFE else begun + (number - begun) // one.periods * one.periods


def _served(plan: Plan, cycle: BillingCycle, phase: Period, numbers: range) -> Fraction:
    """Return the share of some billing periods that is served, each of them an equal part of all."""
    basis, terms, shares = plan.minimum_proration, plan.billing_period, Fraction(0)
    for number in numbers:
        period = Period(cycle.boundary(number), cycle.boundary(number + 1))
        start, end = max(period.start, phase.start), min(period.end, phase.end)
        if (start, end) == (period.start, period.end):
            shares += 1
        elif start < end:
            shares += share_between(start, end, period, basis, terms.timezone, terms.every)
    return shares / len(numbers)


def _cycle_alone(span: BillingSpan, plan: Plan) -> BillingCycle:
    from rating.terms import Running, cycle_of

    return cycle_of(Running(span.since or span.service.start, None), plan)


def spent_before(
    engine: duckdb.DuckDBPyConnection,
    terms: Terms,
    spans: BillingSpans,
    rate_spans: Callable[[BillingSpans, Pots], None],
) -> Pots:
    """Return the pots of spans with what of them was used before; rates the earlier periods, if there are any.

    `rate_spans` rates spans that are whole pots, in the engine, whose tables it replaces.
    """
    pots = Pots(terms)
    pooled = {stretch.plan_key: terms.plans[stretch.plan_key] for stretch in spans.stretches}
    pooled = {key: plan for key, plan in pooled.items() if plan.pots}
    if not pooled:
        return pots
    needed: dict[str, Period] = {}
    asked: list[tuple[object, ...]] = []
    for span in spans:
        if span.plan_key not in pooled:
            continue
        plan = pooled[span.plan_key]
        for one in plan.pots:
            at = pots.place_of(one, span, plan)
            if at.first < at.number:
                asked.append((span.span_id, one.id, pots.number_of(at.pot), at.number))
                times = Period(pots.begin_of(span, plan), span.period.start)
                needed[span.tenant_id] = _both(needed.get(span.tenant_id), times)
    if not asked:
        return pots
    earlier = earlier_spans(terms, needed)
    together = replace(pots, together=True)
    rate_spans(earlier, together)
    load_table(engine, "pot_asked", _ASKED_COLUMNS, asked)
    rows = fetch(engine, read_sql("rating", "pot_spent")).to_pylist()
    pots.spent = {(row["span_id"], row["commitment_id"]): Spent(row["used"], row["paid"]) for row in rows}
    return pots


def _both(one: Period | None, other: Period) -> Period:
    return other if one is None else Period(min(one.start, other.start), max(one.end, other.end))


def earlier_spans(terms: Terms, needed: Mapping[str, Period]) -> BillingSpans:
    """Return all spans of tenants in their times, and of those whose accounts share a fixed discount with them."""
    from rating.adjust_tables import ASIDE
    from rating.spans import BillingSpans
    from rating.terms import spans_between

    of_times: dict[Period, set[str]] = {}
    for tenants, dates in _tied(terms, needed):
        of_times.setdefault(dates, set()).update(tenants)
    found = BillingSpans()
    for dates, tenants in sorted(of_times.items(), key=lambda item: (item[0].start, item[0].end)):
        found += spans_between(terms, [one for one in terms.subscriptions if one.tenant in tenants], dates)
    # The second side of a comparison is known by the names of its plans.
    return found.with_stretches(lambda one: replace(one, side=1) if one.plan.startswith(ASIDE) else one)


def _tied(terms: Terms, needed: Mapping[str, Period]) -> Iterator[tuple[set[str], Period]]:
    """Yield tenants that are looked at together, with the time in which they are: one alone, unless an account ties them."""
    groups, left = sharing_tenants(terms), dict(needed)
    while left:
        tenant, dates = left.popitem()
        tenants = groups.get(tenant, {tenant})
        for other in tenants & left.keys():
            dates = _both(dates, left.pop(other))
        yield tenants, dates


def sharing_tenants(terms: Terms) -> dict[str, set[str]]:
    """Return with whom a tenant shares fixed discounts, over one account or several; who shares none is not in it."""
    sharing = {one.id for one in terms.accounts.values() if any(deal.amount is not None for deal in one.discounts)}
    payers = terms.payer_by_tenant()
    members: dict[str, set[str]] = {}
    for one in terms.subscriptions if sharing else ():
        account = one.account or payers.get(one.tenant, "")
        if account in sharing:
            members.setdefault(account, set()).add(one.tenant)
    found: dict[str, set[str]] = {}
    for some in members.values():
        together = some.union(*(found.get(tenant, set()) for tenant in some))
        found |= dict.fromkeys(together, together)
    return found


def tenants_beside(terms: Terms, spans: BillingSpans) -> set[str]:
    """Return the tenants whose use may change what was used of the pots of spans before them."""
    pooled = [bool(terms.plans[stretch.plan_key].pots) for stretch in spans.stretches]
    if not any(pooled):
        return set()
    groups = sharing_tenants(terms)
    held = {tenant for tenant, stretch in zip(spans.tenants, spans.stretch, strict=True) if pooled[stretch]}
    return held.union(*(groups.get(tenant, set()) for tenant in held))
