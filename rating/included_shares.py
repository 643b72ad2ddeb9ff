"""The included units, and the least amount of a line, of a part of a billing period, where a price says that they are prorated.

Enters: billing spans and plans. Leaves: the tables included_share and line_minimum_share of the engine, one row per (span, price)
whose service period is a part of its billing period; rating.granted adds what grants cover. Refuses: to look at usage.
Source: price models, sections 2.4, 4.5 and 5.3.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from rating.proration import amount_of_share
from rating.rounding import round_fraction
from rating.tables import load_table
from rating.terms_shares import share_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

    import duckdb

    from rating.plans import Plan
    from rating.price_steps import LineLimits
    from rating.proration import Basis
    from rating.spans import BillingSpan

_COLUMNS = {"span_id": "int", "price_id": "text", "included": "quantity"}
_MINIMUM_COLUMNS = {"span_id": "int", "price_id": "text", "minimum": "exact"}
# Quantities have nine places; the share of the units is rounded once, half away from zero.
QUANTITY_PLACES = 9


def load_included_shares(
    engine: duckdb.DuckDBPyConnection, plans: Mapping[str, Plan], spans: Sequence[BillingSpan]
) -> None:
    """Make the tables included_share and line_minimum_share; `plans` are those in use, by plan key."""
    _load_line_minimums(engine, plans, spans)
    prorated = {key: _prorated(plan.prices) for key, plan in plans.items()}
    rows = [
        (span.span_id, price_id, round_fraction(Fraction(included) * _share(span, plans), QUANTITY_PLACES))
        for span in (spans if any(prorated.values()) else ())
        if span.service != span.period
        for price_id, included in prorated[span.plan_key]
    ]
    load_table(engine, "included_share", _COLUMNS, rows)


def _load_line_minimums(
    engine: duckdb.DuckDBPyConnection, plans: Mapping[str, Plan], spans: Sequence[BillingSpan]
) -> None:
    """Make the table line_minimum_share: what a line costs at least in a part of a period, by the plan's basis of minimums."""
    prorated = {
        key: [(price.id, limits.minimum) for price in plan.prices if (limits := _limits_of(price)) and limits.prorate]
        for key, plan in plans.items()
    }
    rows = [
        (span.span_id, price_id, amount_of_share(minimum, _share(span, plans, plans[span.plan_key].minimum_proration)))
        for span in (spans if any(prorated.values()) else ())
        if span.service != span.period
        for price_id, minimum in prorated[span.plan_key]
        if minimum is not None
    ]
    # Read only where lines may have limits.
    if any(_limits_of(price) or price.type == "percent_of" for plan in plans.values() for price in plan.prices):
        load_table(engine, "line_minimum_share", _MINIMUM_COLUMNS, rows)


def _limits_of(price: Any) -> LineLimits | None:
    limits: LineLimits | None = getattr(price, "line_limits", None)
    return limits


def _prorated(prices: Sequence[Any]) -> list[tuple[str, Decimal]]:
    return [(price.id, price.included) for price in prices if getattr(price, "prorate_included", False)]


def _share(span: BillingSpan, plans: Mapping[str, Plan], basis: Basis | None = None) -> Fraction:
    return share_in(span, plans[span.plan_key], span.service.start, span.service.end, basis)
