"""Terms for a price on its own: what rates a quantity without tenant, subscription or period.

Enters: prices and quantities side by side, or a price and events. Leaves: the tables that `rating.rate` reads, one billing
span per quantity; or what the events are worth, by group.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from metering.catalog import Meter
from metering.engine import open_engine
from metering.periods import Period
from metering.usage import load_events, register
from rating.plans import BillingPeriod, Plan
from rating.rate import RatedQuantity, check_priced, rate, read_rated
from rating.spans import BillingSpan
from rating.terms import Terms, load_terms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

    import duckdb
    import pyarrow as pa

    from rating.prices import UsagePrice

_PERIOD = Period(datetime(2001, 1, 1, tzinfo=UTC), datetime(2001, 2, 1, tzinfo=UTC))


def load_preview(
    engine: duckdb.DuckDBPyConnection,
    prices: Sequence[UsagePrice],
    quantities: Sequence[Decimal],
    currency: str,
    switches: Mapping[str, str],
) -> datetime:
    """Load one span, one plan and one row of usage per quantity; return the instant at which all of it is due.

    The quantity of a price with weights is the weighted one; that of a price with `included_from` is what no grant covers.
    What buckets of time promise is left out. Raises ValueError for a price that looks at single events.
    """
    import pyarrow as pa

    prices = [_of_quantity(price) for price in prices]
    plans = [
        Plan(
            name=f"preview-{number}",
            version=1,
            currency=currency,
            billing_period=BillingPeriod(),
            prices=(price,),
            switches=dict(switches),
        )
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


def _of_quantity(price: UsagePrice) -> UsagePrice:
    """Return a price as it rates a quantity that was metered and weighted already."""
    if price.type in {"dynamic", "capacity"} or (price.type == "percentage" and price.is_by_event):
        raise ValueError(
            f"price {price.id} looks at single events or several meters, so a quantity alone is worth nothing; use rate_events"
        )
    # A quantity that is held from the first to the last day is in its tiers as it stands. A quantity alone has no grants, and
    # no buckets that are over and may have promised more.
    given = {"weights": None, "combine": None, "tiers_by": "quantity", "included_from": None, "bucket_commitment": None}
    return price.model_copy(update={name: value for name, value in given.items() if hasattr(price, name)})


def rate_events(
    price: UsagePrice,
    meter: Meter | Sequence[Meter],
    events: pa.Table,
    *,
    period: Period | None = None,
    timezone: str = "UTC",
    currency: str = "USD",
) -> dict[str, RatedQuantity]:
    """Return what usage events are worth under one price, by group key ('' without groups), by the SQL that rates invoices.

    `events` is a table of usage events (metering.events.usage_event_schema), all taken for one tenant's; a price that
    looks at several meters is given all of them. `period` is the
    billing period, by default from the first to the last of them; buckets of time are cut in `timezone`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if period is None:
        times = (
            pc.min_max(events["event_time"]).as_py() if events.num_rows else {"min": _PERIOD.start, "max": _PERIOD.end}
        )
        period = Period(times["min"].astimezone(UTC), times["max"].astimezone(UTC) + timedelta(microseconds=1))
    place = events.schema.get_field_index("tenant_id")
    same = pa.array(["preview"] * events.num_rows, events.schema.field(place).type)
    plan = Plan(
        name="preview", version=1, currency=currency, billing_period=BillingPeriod(timezone=timezone), prices=(price,)
    )
    span = BillingSpan(0, "preview", "preview", "preview", "preview", 1, currency, period, period, True)
    meters = [meter] if isinstance(meter, Meter) else meter
    engine = open_engine(threads=1)
    try:
        load_events(engine, events.set_column(place, events.schema.field(place), same))
        rate(engine, Terms.of(meters, [plan], [], []), [span], period.end)
        check_priced(engine)
        return {group_key: rated for (_, group_key), rated in read_rated(engine).items()}
    finally:
        engine.close()
