"""Whose amount does not fit: where rating overflows, the tenant and the price are looked for and named.

Enters: the terms, billing spans, and a way to rate some of them again. Leaves: AmountOverflow with the tenant and the price.
Refuses: to guess. The largest quantity may be that of somebody else under a cheap price; whoever is named here overflows alone.
Costs nothing where everything fits; else half of the spans are rated again and again, about as much as all of them once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rating.errors import AmountOverflow
from rating.spans import BillingSpan, BillingSpans, plan_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import duckdb

    from rating.plans import Plan
    from rating.terms import Terms

    Rate = Callable[[Terms, BillingSpans], None]

_NOTHING_AROUND: dict[str, Any] = {"discounts": (), "commitments": (), "maximums": (), "minimums": ()}


# Whole units of 29 digits, so that their sum fits whatever it is that does not.
_LARGEST_METER = (
    "SELECT meter FROM usage_event WHERE tenant_id = $tenant_id AND event_time >= $start AND event_time < $end"
    " GROUP BY meter ORDER BY sum(abs(floor(quantity))) DESC, meter LIMIT 1"
)


def named(
    engine: duckdb.DuckDBPyConnection, error: AmountOverflow, terms: Terms, spans: BillingSpans, rate: Rate
) -> AmountOverflow:
    """Return the overflow with whose it is; as it was, if it says so, or nobody overflows alone."""
    alone = None if "tenant_id" in error.details else _alone(terms, spans, rate)
    if alone is None:
        return error
    [span] = alone
    price_id, under = _price_of(engine, terms, alone, span, rate)
    return AmountOverflow(
        f"what tenant {span.tenant_id} used comes to more than fits, under {under} of {span.plan} version "
        f"{span.plan_version} in the billing period from {span.period.start:%Y-%m-%d}; nothing was booked; look for a quantity "
        f"or unit price in the wrong unit ({str(error.__cause__).splitlines()[0]})",
        tenant_id=span.tenant_id, price_id=price_id, subscription_id=span.subscription_id,
    )  # fmt: skip


def _alone(terms: Terms, spans: BillingSpans, rate: Rate) -> BillingSpans | None:
    """Return one span that overflows without the others."""
    while len(spans) > 1:
        half = len(spans) // 2
        first = spans.take(range(half))
        spans = spans.take(range(half, len(spans))) if _fits(rate, terms, first) else first
    return spans if len(spans) and not _fits(rate, terms, spans) else None


def _price_of(
    engine: duckdb.DuckDBPyConnection, terms: Terms, alone: BillingSpans, span: BillingSpan, rate: Rate
) -> tuple[str, str]:
    """Return the first price that overflows by itself, bare or with what stands around it, and how it is called; none: ''."""
    plan, key = terms.plans[span.plan_key], plan_key(span.plan, span.plan_version)
    # The plan as it is for this subscription takes the place of the one that it overrides.
    bare = alone.with_stretches(lambda stretch: replace(stretch, plan_key=key, has_overrides=False))

    def fits(part: Plan) -> bool:
        return _fits(rate, replace(terms, plans={**terms.plans, key: part}), bare)

    if not fits(plan.model_copy(update={**_NOTHING_AROUND, "prices": ()})):
        # The use of all meters is added up, priced or not.
        asked = {"tenant_id": span.tenant_id, "start": span.service.start, "end": span.service.end}
        for (meter,) in engine.execute(_LARGEST_METER, asked).fetchall():
            found = next((price.id for price in plan.prices if meter in price.meters_read), "")
            return found, f"price {found}" if found else f"meter {meter}, which no price reads, with the prices"
    for price_id, part in _one_by_one(plan):
        if not fits(part):
            return price_id, f"price {price_id}"
    return "", "its prices together"


def _one_by_one(plan: Plan) -> Iterator[tuple[str, Plan]]:
    # A percentage of prices has these with it, so those are looked at before it.
    prices = sorted(plan.prices, key=lambda price: price.type == "percent_of")
    for around in (_NOTHING_AROUND, {}):
        for price in prices:
            held = {price.id, *(price.prices if price.type == "percent_of" else ())}
            kept = tuple(one for one in plan.prices if one.id in held)
            yield price.id, plan.model_copy(update={**around, "prices": kept})


def _fits(rate: Rate, terms: Terms, spans: BillingSpans) -> bool:
    try:
        rate(terms, spans)
    except AmountOverflow:
        return False
    return True
