"""The prices of the plans in use, laid out as rows that SQL can join.

Enters: plans by key and the meters. Leaves: the tables price, price_tier, price_package and flat_amount of the engine.
Refuses: to know whose prices they are: subscriptions and periods are `rating.terms`.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from rating.proration import share_of
from rating.tables import load_table

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import duckdb

    from metering.catalog import Meter
    from rating.plans import Plan
    from rating.prices import Price

_PRICE_COLUMNS = {
    "plan_key": "text", "price_id": "text", "price_type": "text", "position": "int",
    "meter": "text", "unit": "text", "description": "text", "due": "text",
}  # fmt: skip
_TIER_COLUMNS = {
    "plan_key": "text", "price_id": "text", "tier": "int", "lower_bound": "quantity", "upper_bound": "quantity",
    "unit_price": "price", "flat_amount": "price",
}  # fmt: skip
_PACKAGE_COLUMNS = {"plan_key": "text", "price_id": "text", "package_size": "quantity", "package_price": "price"}
_FLAT_COLUMNS = {
    "plan_key": "text", "price_id": "text", "service_us": "int", "period_us": "int", "amount": "price",
    "exact_amount": "exact",
}  # fmt: skip


def load_prices(engine: duckdb.DuckDBPyConnection, meters: Mapping[str, Meter], plans: Mapping[str, Plan]) -> None:
    """Make the tables price, price_tier and price_package: one row per (plan, price), (plan, price, tier)."""
    prices = [(key, at, price) for key, plan in sorted(plans.items()) for at, price in enumerate(plan.prices)]
    load_table(engine, "price", _PRICE_COLUMNS, [_price_row(meters, *row) for row in prices])
    load_table(
        engine, "price_tier", _TIER_COLUMNS, [tier for key, _, price in prices for tier in _tier_rows(key, price)]
    )
    packages = [
        (key, price.id, price.package_size, price.package_price) for key, _, price in prices if price.type == "package"
    ]
    load_table(engine, "price_package", _PACKAGE_COLUMNS, packages)


def load_flat_amounts(
    engine: duckdb.DuckDBPyConnection, plans: Mapping[str, Plan], lengths: Collection[tuple[str, int, int]]
) -> None:
    """Make the table flat_amount: one row per (plan, price, lengths of service and period), not per subscription.

    `lengths` are (plan key, service period, billing period) in microseconds; most service periods are whole.
    """
    rows = [
        (key, price.id, service_us, period_us, price.amount,
         share_of(price.amount, service_us if price.prorate else period_us, period_us))
        for key, service_us, period_us in sorted(lengths)
        for price in plans[key].prices
        if price.type == "flat"
    ]  # fmt: skip
    load_table(engine, "flat_amount", _FLAT_COLUMNS, rows)


def _price_row(meters: Mapping[str, Meter], key: str, position: int, price: Price) -> tuple[object, ...]:
    if price.type == "flat":
        due = "start" if price.when == "in_advance" else "end"
        return key, price.id, price.type, position, None, None, price.description or price.id, due
    # A price whose worth can fall as usage grows is booked when the period is over; the others at any cut.
    due = "end" if price.type == "volume" else "any"
    return (
        key,
        price.id,
        price.type,
        position,
        price.meter,
        meters[price.meter].unit,
        price.description or price.id,
        due,
    )


def _tier_rows(key: str, price: Price) -> list[tuple[object, ...]]:
    if price.type == "unit":
        return [(key, price.id, 1, Decimal(0), None, price.unit_price, Decimal(0))]
    if price.type not in {"graduated", "volume"}:
        return []
    lower = Decimal(0)
    rows: list[tuple[object, ...]] = []
    for number, tier in enumerate(price.tiers, start=1):
        rows.append((key, price.id, number, lower, tier.up_to, tier.unit_price, tier.flat_amount))
        lower = tier.up_to if tier.up_to is not None else lower
    return rows
