"""Terms for a price on its own: what rates a quantity without tenant, subscription or period.

Enters: prices and quantities side by side. Leaves: the tables that `rating.rate` reads, one billing span per quantity.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from metering.catalog import Meter
from metering.periods import Period
from metering.usage import register
from rating.plans import BillingPeriod, Plan
from rating.terms import BillingSpan, Terms, load_terms

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    import duckdb

    from rating.prices import UsagePrice

_PERIOD = Period(datetime(2001, 1, 1, tzinfo=UTC), datetime(2001, 2, 1, tzinfo=UTC))


def load_preview(
    engine: duckdb.DuckDBPyConnection, prices: Sequence[UsagePrice], quantities: Sequence[Decimal], currency: str
) -> datetime:
    """Load one span, one plan and one row of usage per quantity; return the instant at which all of it is due."""
    import pyarrow as pa

    plans = [
        Plan(name=f"preview-{number}", version=1, currency=currency, billing_period=BillingPeriod(), prices=(price,))
        for number, price in enumerate(prices)
    ]
    meters = [Meter(name=name) for name in sorted({price.meter for price in prices})]
    terms = Terms.of(meters, plans, [], [])
    spans = [
        BillingSpan(number, f"preview-{number}", "preview", "preview", plan.name, 1, currency, _PERIOD, _PERIOD, True)
        for number, plan in enumerate(plans)
    ]
    load_terms(engine, terms, spans)
    usage = pa.table(
        {
            "span_id": pa.array(range(len(spans)), pa.int64()),
            "selector_id": pa.array([price.id for price in prices], pa.string()),
            "meter": pa.array([price.meter for price in prices], pa.string()),
            "group_key": pa.array([""] * len(spans), pa.string()),
            "cell_key": pa.array([""] * len(spans), pa.string()),
            "event_count": pa.array([1] * len(spans), pa.int64()),
            "quantity": pa.array(list(quantities), pa.decimal128(38, 9)),
        }
    )
    register(engine, "usage", usage)
    return _PERIOD.end
