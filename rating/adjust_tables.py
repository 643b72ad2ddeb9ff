"""What stands around the prices, laid out as rows that SQL can join: one row per billing span and adjustment.

Enters: the terms and the billing spans. Leaves: the tables adjust_scope, discount, commitment, maximum and minimum.
Refuses: to look at usage or charges. A span without adjustments has no row; most catalogs make five empty tables.

Turns give the order. Whoever has turn 2 sees what turn 1 left of a line. A discount comes after every other one that
lowers one of its spans before it, and so a span never has two in one turn. Percents come before fixed ones, unless the plan
reads it otherwise (discount_order).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from rating.adjust import Commitment, Discount, is_pot, narrow_first, order_of, scope_of
from rating.catalog_times import instant_of
from rating.pots import MEMBER_COLUMNS, UNSPENT
from rating.tables import load_table
from rating.terms_shares import exact_share

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime
    from decimal import Decimal

    import duckdb

    from metering.periods import BillingCycle
    from rating.adjust import Minimum
    from rating.plans import Plan, Subscription
    from rating.pots import Pots
    from rating.spans import BillingSpan
    from rating.terms import Terms

_SCOPE_COLUMNS = {"scope_id": "int", "price_id": "text", "position": "int"}
_DISCOUNT_COLUMNS = {
    "span_id": "int", "turn": "int", "pool_id": "int", "part": "text", "scope_id": "int", "ratio": "ratio",
    "amount": "amount", "residue": "text",
}  # fmt: skip
_COMMITMENT_COLUMNS = {
    "span_id": "int", "turn": "int", "part": "text", "scope_id": "int", "amount": "exact", "factor": "ratio",
    "is_pro_rata": "bool", "pot_id": "int", "place": "int", "used_before": "exact",
}  # fmt: skip
_MAXIMUM_COLUMNS = {"span_id": "int", "turn": "int", "part": "text", "scope_id": "int", "amount": "exact"}
_MINIMUM_COLUMNS = {
    "span_id": "int", "turn": "int", "minimum_id": "text", "position": "int", "description": "text",
    "scope_id": "int", "amount": "exact", "paid_before": "amount",
}  # fmt: skip
# What a minimum may not raise its prices above, where minimums come before maximums.
_MINIMUM_CEILING_COLUMNS = {"span_id": "int", "minimum_id": "text", "scope_id": "int", "amount": "exact"}
# What a comparison puts before the names of its second side.
ASIDE = "\x1f"
# After every price of any plan: where true-up lines stand on paper.
_AFTER_PRICES = 100_000


_Order = tuple[int, int, int, str, str, str, str]


@dataclass(frozen=True, slots=True)
class _Offer:
    """A discount and where it stands: at a plan, a subscription or an account."""

    discount: Discount
    owner: str
    owner_id: str
    # Its place in the list that it is written in.
    listed: int

    def order(self, discount_order: str) -> _Order:
        """Return its place among all. The terms are part of it: another version of a plan may have others."""
        order = order_of(self.discount, discount_order, self.listed, of_account=self.owner == "account")
        return *order, self.owner, self.owner_id, str(_terms_of(self.discount))


@dataclass(slots=True)
class _Scopes:
    """Lists of price ids, each with a number; all subscriptions of a plan share theirs."""

    numbers: dict[tuple[str, ...], int] = field(default_factory=dict)

    def number_of(self, price_ids: tuple[str, ...]) -> int:
        return self.numbers.setdefault(price_ids, len(self.numbers))

    def rows(self) -> list[tuple[object, ...]]:
        return [
            (number, price_id, at)
            for price_ids, number in self.numbers.items()
            for at, price_id in enumerate(price_ids)
        ]


def load_adjustments(
    engine: duckdb.DuckDBPyConnection,
    terms: Terms,
    plans: Mapping[str, Plan],
    spans: Sequence[BillingSpan],
    pots: Pots,
) -> None:
    """Make the tables of everything that stands around the prices of the spans; `plans` are those in use, by plan key."""
    scopes = _Scopes()
    load_table(engine, "discount", _DISCOUNT_COLUMNS, _discount_rows(terms, plans, spans, scopes))
    commitments: list[tuple[object, ...]] = []
    maximums: list[tuple[object, ...]] = []
    minimums: list[tuple[object, ...]] = []
    caps_of_minimums: list[tuple[object, ...]] = []
    members: list[tuple[object, ...]] = []
    bounded = {key for key, plan in plans.items() if plan.commitments or plan.maximums or plan.minimums}
    for span in spans if bounded else ():
        if span.plan_key in bounded:
            commitments += _commitment_rows(span, plans[span.plan_key], scopes, pots)
            maximums += _maximum_rows(span, plans[span.plan_key], scopes)
            minimums += _minimum_rows(span, plans[span.plan_key], scopes, pots)
            members += _member_rows(span, plans[span.plan_key], scopes, pots)
            caps_of_minimums += _minimum_ceiling_rows(span, plans[span.plan_key], scopes)
    load_table(engine, "commitment", _COMMITMENT_COLUMNS, commitments)
    load_table(engine, "maximum", _MAXIMUM_COLUMNS, maximums)
    load_table(engine, "minimum", _MINIMUM_COLUMNS, minimums)
    if minimums:
        load_table(engine, "minimum_ceiling", _MINIMUM_CEILING_COLUMNS, caps_of_minimums)
    if minimums or pots.together:
        load_table(engine, "pot_member", MEMBER_COLUMNS, members)
    load_table(engine, "adjust_scope", _SCOPE_COLUMNS, scopes.rows())


def _commitment_rows(span: BillingSpan, plan: Plan, scopes: _Scopes, pots: Pots) -> Iterator[tuple[object, ...]]:
    """Yield what makes the net above an amount dearer, by how much of it, and where in its pot the span stands."""
    ids = _price_ids(plan)
    for number, one in enumerate(narrow_first(plan.commitments, ids), start=1):
        scope, is_pro_rata = scopes.number_of(scope_of(one, ids)), one.share == "pro_rata"
        if factor := one.overage_factor - 1:
            place = _place_of(one, span, plan, pots)
            amount = _promised(one, span, plan, pots)
            yield span.span_id, number, f"overage:{one.id}", scope, amount, factor, is_pro_rata, *place


def _maximum_rows(span: BillingSpan, plan: Plan, scopes: _Scopes) -> Iterator[tuple[object, ...]]:
    """Yield what prices cost together at most. The narrower come first; a wider one sees what they left."""
    ids = _price_ids(plan)
    for number, one in enumerate(narrow_first(plan.maximums, ids), start=1):
        scope = scopes.number_of(scope_of(one, ids))
        yield span.span_id, number, f"maximum:{one.id}", scope, exact_share(one, span, plan)


def _promised(one: Commitment | Minimum, span: BillingSpan, plan: Plan, pots: Pots) -> Decimal:
    """Return what is promised for a span; where it is one amount over several billing periods, for all of them."""
    if is_pot(one):
        return pots.place_of(one, span, plan).amount
    return exact_share(one, span, plan, plan.minimum_proration)


def _place_of(one: Commitment, span: BillingSpan, plan: Plan, pots: Pots) -> tuple[int, int, Decimal]:
    """Return which spans use an amount up one after the other, where in them a span stands, and what was used before."""
    if pots.together and is_pot(one):
        at = pots.place_of(one, span, plan)
        return pots.number_of(at.pot), at.number, UNSPENT.used
    return span.span_id, 0, pots.spent.get((span.span_id, one.id), UNSPENT).used


def _minimum_rows(span: BillingSpan, plan: Plan, scopes: _Scopes, pots: Pots) -> Iterator[tuple[object, ...]]:
    """Yield what is owed at least. A wider minimum also counts the true-up lines of the narrower ones inside it.

    What is promised over several billing periods is owed once, with the last of them.
    """
    ids = _price_ids(plan)
    for number, one in enumerate(_owed(plan), start=1):
        if is_pot(one) and not pots.place_of(one, span, plan).is_last:
            continue
        position = _AFTER_PRICES + number
        scope = scopes.number_of(_with_inner(plan, scope_of(one, ids), one))
        amount, paid = _promised(one, span, plan, pots), pots.spent.get((span.span_id, one.id), UNSPENT).paid
        yield span.span_id, number, one.id, position, one.description or one.id, scope, amount, paid


def _member_rows(span: BillingSpan, plan: Plan, scopes: _Scopes, pots: Pots) -> Iterator[tuple[object, ...]]:
    """Yield where a span stands in its pots, and what of it they cover, where they are rated together."""
    ids = _price_ids(plan)
    for one in plan.pots if pots.together else ():
        at = pots.place_of(one, span, plan)
        turn = narrow_first(plan.commitments, ids).index(one) + 1
        covered = scope_of(one, ids)
        paid = _with_inner(plan, covered, one) if one.true_up else covered
        yield (
            span.span_id, one.id, pots.number_of(at.pot), at.number, turn, scopes.number_of(covered), scopes.number_of(paid)
        )  # fmt: skip


def _minimum_ceiling_rows(span: BillingSpan, plan: Plan, scopes: _Scopes) -> Iterator[tuple[object, ...]]:
    """Yield the maximums that hold for a minimum too: those of all its prices, where the plan puts minimums first."""
    if plan.reading["min_max_order"] != "minimum_first":
        return
    ids = _price_ids(plan)
    for one in _owed(plan):
        for maximum in plan.maximums:
            capped = scope_of(maximum, ids)
            if set(scope_of(one, ids)) <= set(capped):
                scope = scopes.number_of(_with_inner(plan, capped, one))
                yield span.span_id, one.id, scope, exact_share(maximum, span, plan)


def _owed(plan: Plan) -> list[Minimum | Commitment]:
    """Return what is owed at least, in the order in which it is made up for."""
    owed: list[Minimum | Commitment] = [*plan.minimums, *(one for one in plan.commitments if one.true_up)]
    return narrow_first(owed, _price_ids(plan))


def _with_inner(plan: Plan, covered: tuple[str, ...], one: Minimum | Commitment) -> tuple[str, ...]:
    """Return prices and, as if they were prices, what was made up for before within them."""
    owed, ids = _owed(plan), _price_ids(plan)
    done = owed[: owed.index(one)]
    return (*covered, *(other.id for other in done if set(scope_of(other, ids)) <= set(covered)))


def _price_ids(plan: Plan) -> tuple[str, ...]:
    return tuple(price.id for price in plan.prices)


def _discount_rows(
    terms: Terms, plans: Mapping[str, Plan], spans: Sequence[BillingSpan], scopes: _Scopes
) -> list[tuple[object, ...]]:
    held: dict[_Order, list[tuple[_Offer, BillingSpan, str]]] = {}
    for order, offer, span, residue in _ordered(plans, _offers(terms, plans, spans)):
        held.setdefault(order, []).append((offer, span, residue))
    rows: list[tuple[object, ...]] = []
    last_turn: dict[int, int] = {}
    pools: dict[tuple[object, ...], int] = {}
    for order in sorted(held):
        number = 1 + max(last_turn.get(span.span_id, 0) for _, span, _ in held[order])
        for offer, span, residue in held[order]:
            last_turn[span.span_id] = number
            pool_id = pools.setdefault(_pool_of(offer, span), len(pools))
            covered = scopes.number_of(scope_of(offer.discount, _price_ids(plans[span.plan_key])))
            percent = offer.discount.percent
            ratio = None if percent is None else percent.scaleb(-2)
            part = f"discount:{offer.discount.id}"
            rows.append((span.span_id, number, pool_id, part, covered, ratio, offer.discount.amount, residue))
    return rows


def _ordered(
    plans: Mapping[str, Plan], offers: Iterator[tuple[BillingSpan, _Offer]]
) -> Iterator[tuple[_Order, _Offer, BillingSpan, str]]:
    """Yield the discounts with their places, and how a fixed one is shared out.

    A fixed amount is one over all spans of its pool. Where their plans read a switch otherwise, it is strict for the pool.
    """
    switches = {key: (plan.reading["discount_order"], plan.reading["residue"]) for key, plan in plans.items()}
    pools: dict[tuple[object, ...], list[tuple[BillingSpan, _Offer]]] = {}
    for span, offer in offers:
        if offer.discount.amount is None:
            yield offer.order(switches[span.plan_key][0]), offer, span, ""
        else:
            pools.setdefault(_pool_of(offer, span), []).append((span, offer))
    for members in pools.values():
        orders, residues = zip(*(switches[span.plan_key] for span, _ in members), strict=True)
        order = orders[0] if len(set(orders)) == 1 else "percent_first"
        residue = residues[0] if len(set(residues)) == 1 else "largest_remainder"
        listed = min(offer.listed for _, offer in members)
        for span, offer in members:
            yield replace(offer, listed=listed).order(order), offer, span, residue


def _offers(
    terms: Terms, plans: Mapping[str, Plan], spans: Sequence[BillingSpan]
) -> Iterator[tuple[BillingSpan, _Offer]]:
    """Yield every discount of every span that holds for it."""
    of_plans = {key: _listed(plan.discounts, "plan", plan.name) for key, plan in plans.items()}
    of_accounts = {
        account.id: _listed(account.discounts, "account", account.id)
        for account in terms.accounts.values()
        if account.discounts
    }
    if not (any(one.discounts for one in terms.special.values()) or of_accounts or any(of_plans.values())):
        return
    subscribed = {one.id: one for one in terms.subscriptions} if spans else {}
    for span in spans:
        subscription = subscribed.get(span.subscription_id)
        own = subscription.discounts if subscription else ()
        offers = [*of_plans[span.plan_key], *of_accounts.get(span.account_id, ())]
        offers += _listed(own, "subscription", span.subscription_id)
        for offer in offers:
            if subscription is not None and _holds(offer.discount, span, subscription, plans[span.plan_key]):
                yield span, offer


def _listed(discounts: Sequence[Discount], owner: str, owner_id: str) -> list[_Offer]:
    return [_Offer(one, owner, owner_id, at) for at, one in enumerate(discounts)]


def _pool_of(offer: _Offer, span: BillingSpan) -> tuple[object, ...]:
    """Return whose amount a fixed discount is: once per billing period of the account, or of the subscription.

    The terms are part of it: the same discount in two versions of a plan is one, another amount is another.
    """
    whose = span.account_id if offer.owner == "account" else span.subscription_id
    return span.side, offer.owner, whose, span.currency, span.period, offer.discount.id, _terms_of(offer.discount)


def _terms_of(discount: Discount) -> tuple[object, ...]:
    return Fraction(discount.percent or 0), Fraction(discount.amount or 0), discount.prices


def _holds(discount: Discount, span: BillingSpan, subscription: Subscription, plan: Plan) -> bool:
    """Return whether a discount holds for a billing period: it begins within the discount's time, and early enough."""
    from rating.terms import cycle_of, service_of

    if discount.currency not in {None, span.currency}:
        return False
    # The other side of a comparison is the same plan under a name that no catalog can write.
    if discount.plans and plan.name.lstrip(ASIDE) not in discount.plans:
        return False
    if discount.starts_at is None and discount.ends_at is None and discount.periods is None:
        return True
    zone = plan.billing_period.timezone
    start = service_of(subscription, plan).start
    begins_at = max(span.period.start, start)
    first = start if discount.starts_at is None else max(start, instant_of(discount.starts_at, zone))
    if begins_at < first or (discount.ends_at is not None and begins_at >= instant_of(discount.ends_at, zone)):
        return False
    if discount.periods is None:
        return True
    cycle = cycle_of(subscription, plan)
    return cycle.number_at(begins_at) - _first_number(cycle, start, first) < discount.periods


def _first_number(cycle: BillingCycle, start: datetime, first: datetime) -> int:
    """Return the number of the first billing period that begins at `first` or later; the first of all begins at `start`."""
    number = cycle.number_at(first)
    return number if first == start or cycle.boundary(number) == first else number + 1
