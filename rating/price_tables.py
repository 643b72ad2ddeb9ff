"""The prices of the plans in use, laid out as rows that SQL can join.

Enters: plans by key and the meters. Leaves: the tables price, price_tier, price_package and flat_amount of the engine.
Refuses: to know whose prices they are: subscriptions and periods are `rating.terms`.
"""

from __future__ import annotations

import json
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rating.errors import InvariantViolated
from rating.iso4217 import minor_units
from rating.price_ids import is_since_plan, selector_before, selector_id_of
from rating.proration import share_of
from rating.rounding import round_amount
from rating.tables import load_table
from rating.tiers import PercentTier, StairTier, Step, Tier

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import duckdb

    from metering.catalog import Meter
    from rating.amount_tiers import AmountTier
    from rating.dialect import Switches
    from rating.plans import Plan
    from rating.prices import PackagePrice, PercentagePrice, Price

# What these say of a period may be less when more of it has passed.
_FALLING = frozenset({"average", "last", "min", "percentile", "time_weighted_sum"})
_PRICE_COLUMNS = {
    "plan_key": "text", "price_id": "text", "price_type": "text", "position": "int",
    "meter": "text", "unit": "text", "description": "text", "due": "text",
    "convert_numerator": "whole", "convert_denominator": "whole", "convert_step": "whole", "convert_rounding": "text",
    "included": "quantity", "is_pooled": "bool", "included_is_pooled": "bool", "tiers_are_pooled": "bool",
    "is_by_event": "bool", "tiers_are_held": "bool", "flats_at_peak": "bool",
    "edge_is_lower": "bool", "gap_is_lost": "bool", "flat_waits": "bool", "edge_pays": "bool", "tiers_end": "quantity",
    "rounds_components": "bool", "line_minimum": "price", "line_maximum": "price",
    "has_amount_tiers": "bool",
    "pool": "quantity", "pool_is_dearest_first": "bool", "pool_is_pro_rata": "bool",
    "selector_before": "text",
    "of_others": "ratio",
    "priced_is_largest": "bool", "included_is_by_span": "bool", "combine_by": "text", "combine_selector": "text",
    "bucket": "text", "committed": "price", "overage": "ratio", "is_trued_up": "bool",
    "has_groups": "bool", "is_weighted": "bool", "default_weight": "quantity",
    "default_unit_price": "price", "multiplier": "price", "carries": "text", "carried_pattern": "text",
}  # fmt: skip
_TIER_COLUMNS = {
    "plan_key": "text", "price_id": "text", "tier": "int", "lower_bound": "quantity", "upper_bound": "quantity",
    "unit_price": "price", "flat_amount": "price", "package_size": "quantity", "minimum": "price", "maximum": "price",
}  # fmt: skip
_GROUP_COLUMNS = {"plan_key": "text", "price_id": "text", "tier": "int", "group_key": "text", "unit_price": "price"}
_PACKAGE_COLUMNS = {
    "plan_key": "text",
    "price_id": "text",
    "package_size": "quantity",
    "package_price": "price",
    "part": "text",
}
_CELL_COLUMNS = {"plan_key": "text", "price_id": "text", "cell_key": "text", "unit_price": "price"}
_WEIGHT_COLUMNS = {"plan_key": "text", "price_id": "text", "cell_key": "text", "weight": "quantity"}
_LIMIT_COLUMNS = {
    "plan_key": "text", "price_id": "text", "selector_id": "text", "tier": "int", "upper_bound": "quantity",
}  # fmt: skip
_AMOUNT_TIER_COLUMNS = {
    "plan_key": "text", "price_id": "text", "tier": "int", "lower_bound": "price", "upper_bound": "price", "ratio": "ratio",
}  # fmt: skip
_BASE_COLUMNS = {"plan_key": "text", "price_id": "text", "base_price_id": "text"}
_PERCENTAGE_COLUMNS = {
    "plan_key": "text", "price_id": "text", "unit_price": "price", "fixed_amount": "price", "free_events": "int",
    "free_units": "quantity", "event_minimum": "price", "event_maximum": "price",
}  # fmt: skip
_FLAT_COLUMNS = {
    "plan_key": "text", "price_id": "text", "service_us": "int", "period_us": "int", "amount": "price",
    "exact_amount": "exact",
}  # fmt: skip


def load_prices(engine: duckdb.DuckDBPyConnection, meters: Mapping[str, Meter], plans: Mapping[str, Plan]) -> None:
    """Make the tables price, price_tier, price_package ...: one row per (plan, price), (plan, price, tier) ..."""
    prices = [(key, at, price) for key, plan in sorted(plans.items()) for at, price in enumerate(plan.prices)]
    readings = {key: plan.reading for key, plan in plans.items()}
    rows = [_price_row(meters, *row, plans[row[0]]) for row in prices]
    load_table(engine, "price", _PRICE_COLUMNS, rows)
    tiers = [tier for key, _, price in prices for tier in tier_rows(key, price, plans[key])]
    load_table(engine, "price_tier", _TIER_COLUMNS, tiers)
    of_groups = [row for key, _, price in prices for row in _group_rows(key, price, plans[key])]
    load_table(engine, "price_tier_group", _GROUP_COLUMNS, of_groups)
    packages = [
        (key, price.id, price.package_size, price.package_price, part_of(price, readings[key]))
        for key, _, price in prices
        if price.type == "package"
    ]
    load_table(engine, "price_package", _PACKAGE_COLUMNS, packages)
    percentages = [
        (key, price.id, unit_price_of(price.percent), price.fixed_amount, free_events_of(price, readings[key]),
         price.free_units, price.event_minimum, price.event_maximum)
        for key, _, price in prices if price.type == "percentage"
    ]  # fmt: skip
    load_table(engine, "price_percentage", _PERCENTAGE_COLUMNS, percentages)
    cells = [
        (key, price.id, cell_key(dict(zip(price.attributes, cell.values, strict=True))),
         unit_price_read(cell.unit_price, plans[key]))
        for key, _, price in prices if price.type == "matrix" for cell in price.cells
    ]  # fmt: skip
    load_table(engine, "price_cell", _CELL_COLUMNS, cells)
    weights = [
        (key, price.id, cell_key({weights.attribute: value}), weight)
        for key, _, price in prices if (weights := getattr(price, "weights", None)) is not None
        for value, weight in weights.values.items()
    ]  # fmt: skip
    load_table(engine, "price_weight", _WEIGHT_COLUMNS, weights)
    limits = [
        (key, price.id, selector_id_of(price, meter), number, limit)
        for key, _, price in prices if price.type == "capacity"
        for number, tier in enumerate(price.tiers, start=1) for meter, limit in tier.limits.items()
    ]  # fmt: skip
    load_table(engine, "price_limit", _LIMIT_COLUMNS, limits)
    bases = [(key, price.id, one) for key, _, price in prices if price.type == "percent_of" for one in price.prices]
    off = [
        (key, price.id, number, lower, tier.up_to, unit_price_of(tier.percent_off))
        for key, _, price in prices
        for number, (lower, tier) in enumerate(_amount_tiers(price), start=1)
    ]
    # A table that no statement will read is not made: making one costs more than its rows.
    if bases:
        load_table(engine, "price_base", _BASE_COLUMNS, bases)
    if off:
        load_table(engine, "price_amount_tier", _AMOUNT_TIER_COLUMNS, off)


def cell_key(values: Mapping[str, str]) -> str:
    """Return the key that usage gives to a cell: a JSON object, its attributes in alphabetical order."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def cell_attributes(price: Any) -> tuple[str, ...]:
    """Return the attributes by which the line of a price is split into cells."""
    if price.type == "matrix":
        return tuple(sorted(price.attributes))
    if price.type == "dynamic":
        return (price.price_attribute,)
    weights = getattr(price, "weights", None)
    return () if weights is None else (weights.attribute,)


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


def _price_row(meters: Mapping[str, Meter], key: str, position: int, price: Price, plan: Plan) -> tuple[object, ...]:
    switches = plan.reading
    if price.type == "flat":
        due = "start" if price.when == "in_advance" else "end"
        terms: tuple[object, ...] = (None, None, due)
    elif price.type == "percent_of":
        terms = None, None, "any"
    else:
        terms = price.meter, meters[price.meter].unit, _due(price, meters[price.meter])
    meter, unit, due_ = terms
    is_by_event = price.type == "percentage" and price.is_by_event
    named = key, price.id, price.type, position, meter, unit, price.description or price.id, due_
    held = getattr(price, "tiers_by", "quantity") == "held", switches["held_flats"] == "peak"
    terms = *_conversion(price), *_included(price), is_by_event, *held, *_reading(price, switches), *_around(price)
    return *named, *terms, *_cells(price, plan)


def _reading(price: Any, switches: Switches) -> tuple[object, ...]:
    """Return how tiers and allowances are read: whose an edge is, what lies between or beyond them, what zero usage owes."""
    tiers: tuple[Step, ...] = () if price.type == "capacity" else getattr(price, "tiers", ())
    is_lost = bool(tiers) and switches["tiers_past_end"] == "lose"
    return (
        switches["tier_edge"] == "lower",
        switches["tier_gap"] == "lost",
        switches["flat_at_zero"] == "waived",
        switches["allowance_edge"] == "fixed_due",
        tiers[-1].up_to if is_lost else None,
        switches["round_at"] == "component",
        *_line_limits(price),
        bool(_amount_tiers(price)),
        getattr(price, "pool", None),
        getattr(price, "pool_order", None) == "dearest",
        getattr(price, "pool_order", None) == "pro_rata",
        selector_before(price) if is_since_plan(price) else None,
        unit_price_of(price.percent) if price.type == "percent_of" else None,
    )


def _line_limits(price: Any) -> tuple[Decimal | None, Decimal | None]:
    """Return what a line costs at least and at most."""
    limits = getattr(price, "line_limits", None)
    return (None, None) if limits is None else (limits.minimum, limits.maximum)


def _amount_tiers(price: Any) -> list[tuple[Decimal, AmountTier]]:
    """Return the tiers of money that a percentage is off, each with the edge below it."""
    tiers: tuple[AmountTier, ...] = getattr(price, "amount_tiers", None) or ()
    return list(zip([Decimal(0), *(tier.up_to or Decimal(0) for tier in tiers)], tiers, strict=False))


def part_of(price: PackagePrice, switches: Switches) -> str:
    """Return whether a started package counts. Packages inside tiers are counted per tier anyway (`up_per_tier`)."""
    return "down" if switches["part_package"] == "down" else price.part


def free_events_of(price: PercentagePrice, switches: Switches) -> int | None:
    """Return how many events are free; none are counted where units and limits decide alone (`units_only`)."""
    has_limits = price.event_minimum is not None or price.event_maximum is not None
    only_units = has_limits and price.free_units is not None and switches["allowance_pair"] == "units_only"
    return None if only_units else price.free_events


def unit_price_read(unit_price: Decimal, plan: Plan) -> Decimal:
    """Return a unit price as the plan reads it: rounded to the minor unit before anything is multiplied, or exact."""
    if plan.reading["round_at"] != "unit_price":
        return unit_price
    return round_amount(unit_price, minor_units(plan.currency))


def _around(price: Any) -> tuple[object, ...]:
    """Return which groups are priced, whether included units are of a span, the other meter, and what buckets promise."""
    largest = getattr(price, "groups_priced", "all") == "largest"
    combined = getattr(price, "combine", None)
    other = (None, None) if combined is None else (combined.how, selector_id_of(price, combined.meter))
    promised = getattr(price, "bucket_commitment", None)
    terms = (None, None, None)
    if promised is not None:
        terms = promised.amount, promised.overage_factor - 1, promised.true_up
    return largest, _is_by_span(price), *other, getattr(price, "price_per", None), *terms


def _due(price: Any, meter: Meter) -> str:
    """Return when a price of usage is booked: at any cut, or when the period is over, if its worth may fall before."""
    if price.cut is not None:
        return "end" if price.cut == "period_end" else "any"
    falls = price.type == "volume" or getattr(price, "tiers_over", "group") == "all_groups" or _steps_down(price)
    falls = falls or getattr(price, "groups_priced", "all") == "largest" or _may_shrink(price)
    return "end" if falls or meter.aggregation in _FALLING or meter.operation_attribute is not None else "any"


def _cells(price: Any, plan: Plan) -> tuple[object, ...]:
    """Return whether there are groups and weights, and what cells without a price or weight of their own have."""
    weights = getattr(price, "weights", None)
    weighted = bool(price.by), weights is not None, None if weights is None else weights.default
    if price.type == "matrix":
        default = price.default_unit_price
        return *weighted, None if default is None else unit_price_read(default, plan), None, None, None
    if price.type == "dynamic":
        decimals = rf"(\.[0-9]{{1,{price.places}}})?"
        return *weighted, price.default, price.multiplier, price.carries, rf"-?[0-9]{{1,12}}{decimals}"
    return *weighted, None, None, None, None


def _may_shrink(price: Any) -> bool:
    """Return whether more of another meter makes the quantity smaller."""
    combined = getattr(price, "combine", None)
    return combined is not None and combined.how in {"divide", "subtract"}


def _steps_down(price: Any) -> bool:
    if price.type not in {"stairstep", "capacity"}:
        return False
    return any(later.flat_amount < tier.flat_amount for tier, later in pairwise(price.tiers))


def _conversion(price: Any) -> tuple[object, ...]:
    """Return steps per billionth of a unit of the meter, as a reduced fraction, and billionths of a unit per step."""
    conversion = getattr(price, "convert", None)
    if conversion is None:
        return None, None, None, None
    step = 10 ** (9 - conversion.places_kept)
    steps = conversion.factor / step
    rounding = "half_up" if conversion.rounding == "none" else conversion.rounding
    return Decimal(steps.numerator), Decimal(steps.denominator), Decimal(step), rounding


def _included(price: Any) -> tuple[object, ...]:
    """Return the included units, and what several groups of one price have in common; one group needs no pool."""
    included = getattr(price, "included", None)
    is_granted = getattr(price, "included_from", None) is not None
    shares_included = (included is not None or is_granted) and bool(price.by) and price.included_per == "price"
    shares_tiers = getattr(price, "tiers_over", "group") == "all_groups"
    # These two need the other groups, or the span, as well.
    others = getattr(price, "groups_priced", "all") == "largest" or _is_by_span(price)
    return included, shares_included or shares_tiers or others, shares_included, shares_tiers


def _is_by_span(price: Any) -> bool:
    """Return whether spans differ in what is included: their share of a period, or what grants cover."""
    return getattr(price, "prorate_included", False) or getattr(price, "included_from", None) is not None


def tier_rows(key: str, price: Price, plan: Plan) -> list[tuple[object, ...]]:
    if price.type == "unit":
        unit_price = unit_price_read(price.unit_price, plan)
        return [(key, price.id, 1, Decimal(0), None, unit_price, Decimal(0), None, None, None)]
    if price.type == "capacity":
        return [
            (key, price.id, number, Decimal(0), None, Decimal(0), tier.flat_amount, None, None, None)
            for number, tier in enumerate(price.tiers, start=1)
        ]
    lower = Decimal(0)
    rows: list[tuple[object, ...]] = []
    tiers = getattr(price, "tiers", ())
    for number, tier in enumerate(tiers, start=1):
        # A last tier that ends (tiers_past_end) is open here: what lies beyond it is extended, or taken off before (tiers_end).
        upper = None if number == len(tiers) else tier.up_to
        rows.append((key, price.id, number, lower, upper, *_tier_terms(tier, plan)))
        lower = tier.up_to if tier.up_to is not None else lower
    return rows


def _group_rows(key: str, price: Price, plan: Plan) -> list[tuple[object, ...]]:
    """Return the unit prices of the groups that a tier names, by the key that usage gives to a group."""
    if price.type != "volume":
        return []
    return [
        (key, price.id, number, cell_key({price.by[0]: value}), unit_price_read(unit_price, plan))
        for number, tier in enumerate(price.tiers, start=1)
        for value, unit_price in tier.unit_prices.items()
    ]


def _tier_terms(tier: Step, plan: Plan) -> tuple[Decimal | None, ...]:
    """Return unit price, flat amount, package size, minimum and maximum of a tier."""
    if isinstance(tier, PercentTier):
        return unit_price_of(tier.percent), tier.flat_amount, None, None, None
    if isinstance(tier, StairTier):
        return Decimal(0), tier.flat_amount, None, None, None
    if isinstance(tier, Tier):
        unit_price = unit_price_read(tier.unit_price, plan)
        return unit_price, tier.flat_amount, tier.package_size, tier.minimum, tier.maximum
    raise InvariantViolated(f"nobody knows what a {type(tier).__name__} costs; teach rating.price_tables")


def unit_price_of(percent: Decimal) -> Decimal:
    """Return a percentage as money per unit of money: 2.5 % is 0.025. Exact."""
    return percent.scaleb(-2)
