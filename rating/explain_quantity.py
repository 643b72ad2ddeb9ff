"""From the usage of a line to the quantity that is priced, step by step; and what stands behind a line without usage.

Enters: an engine in which the span of the line is rated, the line and its price. Leaves: the steps before `price`, in the order
in which the engine takes them: aggregate, weights, combination, floor, conversion, included, place in the tiers.
Refuses: to compute a quantity. Each is read off the table that the next step reads.
Source: price models, section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metering.engine import fetch
from metering.numbers import exact_sum, trimmed
from rating.explanation import Step, is_of_price
from rating.rounding import round_amount

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from decimal import Decimal

    import duckdb

    from metering.catalog import Meter
    from rating.invoice import InvoiceLine
    from rating.plans import Plan

INCLUDED = "included"
# How a quantity is put together with that of another meter.
COMBINED = {
    "divide": "divided by {}", "multiply": "times {}", "add": "plus {}", "subtract": "minus {}, never below zero",
}  # fmt: skip
_MINIMUM = "SELECT amount, scope_id, paid_before FROM minimum WHERE span_id = $span_id AND minimum_id = $price_id"
_PROMISED = (
    "SELECT commitment.part, commitment.amount, commitment.used_before FROM commitment JOIN adjust_scope USING (scope_id)"
    " WHERE commitment.span_id = $span_id AND adjust_scope.price_id = $price_id ORDER BY commitment.turn"
)
_COVERED = (
    "SELECT sum(worth_line.amount) AS amount FROM worth_line JOIN adjust_scope USING (price_id)"
    " WHERE span_id = $span_id AND scope_id = $scope_id"
)


def rows_of(
    engine: duckdb.DuckDBPyConnection, table: str, price: str, line: InvoiceLine, span_id: int, named: str | None = None
) -> list[Any]:
    """Return the rows of a table that belong to the line; `price` is the column that names it. Table names are ours."""
    statement = f"SELECT * FROM {table} WHERE span_id = $span_id AND {price} = $price_id AND group_key = $group_key"
    question: dict[str, object] = {
        "span_id": span_id,
        "price_id": named or line.price_id,
        "group_key": line.group_key,
    }
    rows: list[Any] = fetch(engine, statement, question).to_pylist()
    return rows


def quantity_steps(
    engine: duckdb.DuckDBPyConnection, meters: Mapping[str, Meter], line: InvoiceLine, span_id: int, price: Any
) -> list[Step]:
    """Return the steps before the price; what does not apply is left out, and all of them for a line without usage."""
    if line.meter is None:
        return []
    steps = list(_measured(engine, meters, line, span_id, price))
    # What is rated, each cell by itself; one that is below zero is rated as zero, whatever the others are.
    met = [row["quantity"] for row in rows_of(engine, "usage_to_rate", "selector_id", line, span_id)]
    if any(quantity < 0 for quantity in met):
        above = exact_sum(quantity for quantity in met if quantity > 0)
        steps.append(Step("floor", "below zero, and so rated as zero", quantity=above, unit=line.unit))
    rated = rows_of(engine, "rated_usage", "price_id", line, span_id)
    convert = getattr(price, "convert", None)
    if convert is not None:
        steps.append(Step("conversion", _conversion_text(convert), quantity=_sum(rated, "converted_quantity")))
    included = _sum(rated, "included_quantity")
    if included:
        text = _included_text(price, _sum(rated, "quantity"))
        steps.append(Step("included", text, quantity=included.copy_negate(), part=INCLUDED))
    unpriced = _sum(rows_of(engine, "unpriced_usage", "price_id", line, span_id), "quantity")
    if unpriced:
        text = "without a price, and so not billed; reconciliation finds it"
        steps.append(Step("unpriced", text, quantity=unpriced.copy_negate()))
    return [*steps, *_place(rated, price)]


def base_steps(
    engine: duckdb.DuckDBPyConnection,
    line: InvoiceLine,
    span_id: int,
    price: Any,
    currency_digits: int,
    plan: Plan | None,
) -> Iterator[Step]:
    """Yield what a line without usage is worked out from: the prices it is a percentage of, or the lines of a minimum."""
    if getattr(price, "type", "") == "percent_of":
        statement = "SELECT part, exact_amount FROM charge WHERE span_id = $span_id AND price_id = $price_id"
        for base in price.prices:
            parts = fetch(engine, statement, {"span_id": span_id, "price_id": base}).to_pylist()
            exact = exact_sum(row["exact_amount"] for row in parts if is_of_price(row["part"]))
            yield Step("base", f"what price {base} comes to, before discounts", exact_amount=exact)
    asked: dict[str, object] = {"span_id": span_id, "price_id": line.price_id}
    for row in fetch(engine, _MINIMUM, asked).to_pylist() if line.price_type == "minimum" else ():
        covered = fetch(engine, _COVERED, {"span_id": span_id, "scope_id": row["scope_id"]}).to_pylist()
        owed = round_amount(row["amount"], currency_digits)
        come_to = round_amount(exact_sum(one["amount"] for one in covered if one["amount"]), currency_digits)
        pooled = plan is not None and any(one.id == line.price_id for one in plan.pots)
        over = "over its billing periods" if pooled else "for this part of the period"
        yield Step("owed", f"the least that is owed {over}", amount=owed)
        if pooled:
            paid = round_amount(row["paid_before"], currency_digits)
            yield Step("covered_before", "what its lines came to in earlier billing periods", amount=paid)
        yield Step("covered", "what the lines it covers come to", amount=come_to)


def pot_steps(engine: duckdb.DuckDBPyConnection, plan: Plan | None, line: InvoiceLine, span_id: int) -> Iterator[Step]:
    """Yield what earlier billing periods used of every commitment over several of them that covers the line."""
    pots = {f"overage:{one.id}": one for one in plan.pots} if plan is not None else {}
    asked: dict[str, object] = {"span_id": span_id, "price_id": line.price_id}
    for row in fetch(engine, _PROMISED, asked).to_pylist() if pots else ():
        if row["part"] in pots:
            text = f"used before of the {grouped(row['amount'])} of commitment {pots[row['part']].id}"
            yield Step("used_before", text, exact_amount=row["used_before"])


def _measured(
    engine: duckdb.DuckDBPyConnection, meters: Mapping[str, Meter], line: InvoiceLine, span_id: int, price: Any
) -> Iterator[Step]:
    """Yield what the meter says, and what becomes of that by weights or together with another meter."""
    used = rows_of(engine, "usage", "selector_id", line, span_id)
    text = aggregate_text(str(line.meter), meters.get(str(line.meter)), getattr(price, "where", None), line.group_key)
    yield Step("aggregate", text, quantity=_sum(used, "quantity"), unit=line.unit)
    rated = rows_of(engine, "usage_to_rate", "selector_id", line, span_id)
    weights, combined = getattr(price, "weights", None), getattr(price, "combine", None)
    if weights is not None:
        shown = ", ".join(f"{value} counts {trimmed(weight)}" for value, weight in sorted(weights.values.items()))
        rest = "" if weights.default is None else f", all else {trimmed(weights.default)}"
        yield Step("weights", f"by {weights.attribute}: {shown}{rest}", quantity=_sum(rated, "quantity"))
    if combined is not None:
        (row,) = fetch(
            engine,
            "SELECT combine_selector FROM price JOIN billing_span USING (plan_key)"
            " WHERE span_id = $span_id AND price_id = $price_id",
            {"span_id": span_id, "price_id": line.price_id},
        ).to_pylist() or [{"combine_selector": ""}]
        other = rows_of(engine, "usage", "selector_id", line, span_id, named=row["combine_selector"])
        text = aggregate_text(combined.meter, meters.get(combined.meter), combined.where, line.group_key)
        yield Step("aggregate_other", text, quantity=_sum(other, "quantity"))
        text = COMBINED[combined.how].format(combined.meter)
        each = "" if price.price_per is None else f", each {price.price_per} by itself"
        yield Step("combination", f"{line.meter} {text}{each}", quantity=_sum(rated, "quantity"))


def _place(rated: list[Any], price: Any) -> Iterator[Step]:
    """Yield where in the tiers the quantity begins, or which other quantity decides its tier."""
    if getattr(price, "tiers_since", "period") == "plan_start":
        text = "used before this period since the plan version began; the tiers go on from there"
        yield Step("tiers_from", text, quantity=_sum(rated, "tiers_from"))
    elif getattr(price, "tiers_over", "group") == "all_groups":
        if price.type in {"volume", "stairstep"}:
            yield Step("tiers_reached", "of all groups together, which decides the tier", quantity=_reached(rated))
        else:
            text = "of the groups before it in the order of their keys; the tiers go on from there"
            yield Step("tiers_from", text, quantity=_sum(rated, "tiers_from"))
    elif getattr(price, "tiers_by", "quantity") == "held" and price.type == "volume":
        yield Step("tiers_reached", "held at the end, which decides the tier", quantity=_reached(rated))


def _reached(rated: list[Any]) -> Decimal:
    # Each bucket of time reaches a tier of its own; the sum says nothing of one, but is what they add up to.
    return _sum(rated, "tiers_reached")


def aggregate_text(name: str, meter: Meter | None, where: Mapping[str, Any] | None, group_key: str) -> str:
    words = f"{meter.aggregation} of {name}" if meter is not None else name
    for attribute, values in sorted((where or {}).items()):
        words += f", {attribute} {' or '.join(map(str, values or ['any']))}"
    return f"{words}, group {group_key}" if group_key else words


def _included_text(price: Any, priced: Decimal) -> str:
    if getattr(price, "groups_priced", "all") == "largest" and not priced:
        return "not priced, because another group is the largest"
    if getattr(price, "pool", None) is not None:
        return "taken from the pool of included units"
    feature = getattr(price, "included_from", None)
    return "included in the price" if feature is None else f"covered by the grants of {feature}"


def _conversion_text(convert: Any) -> str:
    divide, multiply = convert.divide, convert.multiply
    words = f"divided by {grouped(divide)}" if divide is not None else f"multiplied by {grouped(multiply)}"
    rounded = {"ceil": "rounded up", "floor": "rounded down", "half_up": "rounded half up"}.get(convert.rounding)
    return f"{words}, {rounded} once over the whole period" if rounded else words


def grouped(number: Decimal) -> str:
    whole, point, rest = trimmed(number).partition(".")
    return f"{int(whole):,}{point}{rest}"


def _sum(rows: Iterable[Any], column: str) -> Decimal:
    return exact_sum(row[column] for row in rows)
