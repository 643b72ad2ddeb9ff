"""Whose amount does not fit: where rating overflows, the tenant and the price are looked for and named.

Enters: the terms, billing spans, and a way to rate some of them again. Leaves: AmountOverflow with the tenant and the price;
where nobody overflows alone, as few as do together, with their account, and of them whose part is the largest.
Refuses: to guess while rating. The largest quantity may be that of somebody else under a cheap price; whoever is named here
overflows alone, or with those beside him. A total over lines that fit is nobody's; there the largest part is named, as such.
Costs nothing where everything fits; else half of the spans are rated again and again, about as much as all of them once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from metering.engine import read_sql
from rating.errors import AmountOverflow
from rating.spans import BillingSpan, BillingSpans, plan_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import duckdb

    from rating.plans import Plan
    from rating.terms import Terms

    Rate = Callable[[Terms, BillingSpans], None]

# So many names fit a sentence; of so many the largest part is looked for.
_NAMES, _LOOKED_AT = 3, 100
_NOTHING_AROUND: dict[str, Any] = {"discounts": (), "commitments": (), "maximums": (), "minimums": ()}


# Whole units of 29 digits, so that their sum fits whatever it is that does not.
_LARGEST_METER = (
    "SELECT meter FROM usage_event WHERE tenant_id = $tenant_id AND event_time >= $start AND event_time < $end"
    " GROUP BY meter ORDER BY sum(abs(floor(quantity))) DESC, meter LIMIT 1"
)


def named(
    engine: duckdb.DuckDBPyConnection, error: AmountOverflow, terms: Terms, spans: BillingSpans, rate: Rate
) -> AmountOverflow:
    """Return the overflow with whose it is; as it was, if it says so, or rating again does not overflow."""
    if "tenant_id" in error.details:
        return error
    found = _one_of([[place] for place in range(len(spans))], terms, spans, rate)
    if found is None:
        # What several share is of one account.
        places: dict[str, list[int]] = {}
        for place, account in enumerate(spans.accounts):
            places.setdefault(account, []).append(place)
        together = _one_of(list(places.values()), terms, spans, rate) or spans
        if _fits(rate, terms, together):
            return error
        found = _fewest(terms, together, rate)
    if len(found) > 1:
        return _named_together(engine, error, terms, found, rate)
    [span] = found
    price_id, under = _price_of(engine, terms, found, span, rate)
    return AmountOverflow(
        f"what tenant {span.tenant_id} used comes to more than fits, under {under} of {span.plan} version "
        f"{span.plan_version} in the billing period from {span.period.start:%Y-%m-%d}; nothing was booked; look for a quantity "
        f"or unit price in the wrong unit ({_cause_of(error)})",
        tenant_id=span.tenant_id, price_id=price_id, subscription_id=span.subscription_id,
    )  # fmt: skip


def largest_part(engine: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Return account, tenant, price and plan of the largest part of what was rated; nothing where there are no lines."""
    import duckdb

    try:
        rows = engine.execute(read_sql("rating", "largest_part")).fetchall()
    except duckdb.Error:
        # Before the first lines are made there is nothing to look at.
        return {}
    names = ("account_id", "tenant_id", "price_id", "plan", "plan_version", "size")
    return dict(zip(names, rows[0], strict=True)) if rows else {}


def _named_together(
    engine: duckdb.DuckDBPyConnection, error: AmountOverflow, terms: Terms, few: BillingSpans, rate: Rate
) -> AmountOverflow:
    """Return the overflow of spans that fit each by itself, with the largest part as it is alone."""
    parts = [_part_alone(engine, terms, few.take([place]), rate) for place in range(min(len(few), _LOOKED_AT))]
    account, tenant, price_id, under, _ = max(parts, key=lambda one: one[-1])
    tenants = tuple(sorted(set(few.tenants)))
    return AmountOverflow(
        f"what {_listed(tenants)} of account {account} used comes to more than fits only together, and it is no one of them "
        f"alone; the largest part is that of tenant {tenant} under price {price_id} of {under}; nothing was booked; look for a "
        f"quantity, a unit price or a shared discount in the wrong unit ({_cause_of(error)})",
        tenant_id=tenant, price_id=price_id, account_id=account, tenants=tenants,
    )  # fmt: skip


def _part_alone(
    engine: duckdb.DuckDBPyConnection, terms: Terms, alone: BillingSpans, rate: Rate
) -> tuple[str, str, str, str, int]:
    """Return account, tenant, price and plan of the largest part of one span, and its size; 0 where there are no lines."""
    [span] = alone
    part = largest_part(engine) if _fits(rate, terms, alone) else {}
    under = f"{span.plan} version {span.plan_version}"
    return span.account_id, span.tenant_id, part.get("price_id", ""), under, int(part.get("size", 0))


def _one_of(groups: list[list[int]], terms: Terms, spans: BillingSpans, rate: Rate) -> BillingSpans | None:
    """Return the spans of one group that overflow without the others."""
    while len(groups) > 1:
        half = len(groups) // 2
        first = groups[:half]
        groups = groups[half:] if _fits(rate, terms, _spans_of(first, spans)) else first
    found = _spans_of(groups, spans)
    return found if len(found) and not _fits(rate, terms, found) else None


def _spans_of(groups: list[list[int]], spans: BillingSpans) -> BillingSpans:
    return spans.take(place for group in groups for place in group)


def _fewest(terms: Terms, spans: BillingSpans, rate: Rate) -> BillingSpans:
    """Return spans that overflow together and fit without any one of them, where each that comes adds to what there is.

    The shortest beginning that overflows ends with one that is needed; so do those that overflow with it, until it is enough.
    """
    needed: list[int] = []
    others = list(range(len(spans)))
    while _fits(rate, terms, spans.take(needed)):
        fits, overflows = 0, len(others)
        while overflows - fits > 1:
            middle = (fits + overflows) // 2
            if _fits(rate, terms, spans.take([*needed, *others[:middle]])):
                fits = middle
            else:
                overflows = middle
        needed.append(others[overflows - 1])
        others = others[: overflows - 1]
    return spans.take(sorted(needed))


def _listed(tenants: Sequence[str]) -> str:
    """Return a few names, and how many more there are."""
    more = len(tenants) - _NAMES
    named_ = ", ".join(tenants[:_NAMES])
    return f"{'tenants' if len(tenants) > 1 else 'tenant'} {named_}{f' and {more} more' if more > 0 else ''}"


def _cause_of(error: AmountOverflow) -> str:
    return str(error.__cause__).splitlines()[0]


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
