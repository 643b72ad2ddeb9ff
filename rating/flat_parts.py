"""The flat amounts that need more than two lengths of time: units that change, days as a basis, free trials.

Enters: billing spans, plans, subscriptions. Leaves: the table flat_part of the engine, one row per (span, price, stretch of
time with one number of units). Most spans have none: rating.price_tables works theirs out from the two lengths.
Refuses: to look at usage. Source: price models, sections 5.3, 5.5 and 5.6.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

from metering.periods import wall_to_instant, zone
from rating.errors import AmountOverflow
from rating.phases import quantities_at, start_of
from rating.proration import amount_of_share
from rating.tables import load_table
from rating.terms_shares import share_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    import duckdb

    from rating.plans import Plan, Subscription
    from rating.prices import FlatPrice
    from rating.spans import BillingSpan
    from rating.terms import Terms

_COLUMNS = {
    "span_id": "int", "price_id": "text", "part_number": "int", "starts_at": "instant", "quantity": "quantity",
    "amount": "price", "exact_amount": "exact",
}  # fmt: skip
_ONE = Decimal(1)
# Exact amounts have 17 digits before the point; two less, so that they are rounded in minor units.
_FITS = Decimal(10) ** 15


def load_flat_parts(
    engine: duckdb.DuckDBPyConnection, terms: Terms, plans: Mapping[str, Plan], spans: Sequence[BillingSpan]
) -> None:
    """Make the table flat_part for the spans that need it; `plans` are those in use, by plan key."""
    special = {key: _special(plan) for key, plan in plans.items()}
    asked = [span for span in spans if special[span.plan_key]] if any(special.values()) else []
    subscribed = {one.id: one for one in terms.subscriptions} if asked else {}
    rows: list[tuple[object, ...]] = []
    for span in asked:
        subscription = subscribed.get(span.subscription_id)
        for price in special[span.plan_key]:
            rows += _rows(price, span, plans[span.plan_key], subscription)
    load_table(engine, "flat_part", _COLUMNS, rows)


def _special(plan: Plan) -> list[FlatPrice]:
    by_days = plan.proration != "instants"
    return [
        price
        for price in plan.prices
        if price.type == "flat" and (price.per_unit_of or price.trial_days or (by_days and price.prorate))
    ]


def _rows(
    price: FlatPrice, span: BillingSpan, plan: Plan, subscription: Subscription | None
) -> Iterator[tuple[object, ...]]:
    charged_from = _end_of_trial(price, plan, subscription)
    stretches = _stretches(price, span, plan, subscription)
    if not price.prorate:
        # All of the amount, whatever the length: for the most units that were held.
        stretches = [(span.service.start, span.service.end, max(units for _, _, units in stretches))]
    for number, (start, end, units) in enumerate(stretches, start=1):
        whole = share_in(span, plan, start, end) if price.prorate else Fraction(1)
        free = Fraction(0)
        if charged_from is not None and charged_from > start:
            free = share_in(span, plan, start, min(charged_from, end))
        share = max(whole - free, Fraction(0)) * Fraction(units)
        exact = amount_of_share(price.amount, share)
        if abs(exact) >= _FITS:
            raise AmountOverflow(
                f"{units} of {price.per_unit_of} of tenant {span.tenant_id} at {price.amount} come to more than fits, under "
                f"price {price.id} of {span.plan} version {span.plan_version}; correct the number of units or the amount",
                tenant_id=span.tenant_id, price_id=price.id, subscription_id=span.subscription_id,
            )  # fmt: skip
        yield span.span_id, price.id, number, start, units, price.amount, exact


def _stretches(
    price: FlatPrice, span: BillingSpan, plan: Plan, subscription: Subscription | None
) -> list[tuple[datetime, datetime, Decimal]]:
    """Return the service period cut where the number of units changes."""
    if price.per_unit_of is None or subscription is None:
        return [(span.service.start, span.service.end, _ONE)]
    held = quantities_at(
        subscription, price.per_unit_of, span.period, plan.billing_period.timezone, price.when_more, price.when_fewer
    )
    cuts = [max(at, span.service.start) for at, _ in held if at < span.service.end]
    ends = [*cuts[1:], span.service.end]
    return [(start, end, units) for start, end, (_, units) in zip(cuts, ends, held, strict=False) if start < end]


def _end_of_trial(price: FlatPrice, plan: Plan, subscription: Subscription | None) -> datetime | None:
    if price.trial_days is None or subscription is None:
        return None
    timezone = plan.billing_period.timezone
    start = start_of(subscription, timezone)
    wall = start.astimezone(zone(timezone)).replace(tzinfo=None) + timedelta(days=price.trial_days)
    return wall_to_instant(wall, timezone)
