"""Money at stake: what a break is worth, by the best estimate there is, and which estimate that was.

Enters: the engine after rating (tables `usage`, `billing_span`, `price`, `charge`), the terms, rows of BREAK whose statement
gave a quantity and no amount. Leaves: the same rows with amounts, currency and `estimate_basis`.
Refuses: quantity times average price. With 1,000,000 units at 0 and then 0.000002, usage of 900,000 and 300,000 missing,
the average price is 0 and the truth is 0.40.

Of the bases, best first, the first that is possible:
    E1  worth(usage + missing) - worth(usage) under the tenant's own plan version, in the tiers of the original period. All
        missing units of one component key are rated together once, and shared by quantity, largest remainder: marginal
        amounts do not add up. Where no span holds the use, the tenant's last plan rates it from zero.
    E2  the realised unit price of the tenant's meter in its last billing period before
    E3  list price: the workspace's own, else what the newest versions of the catalog's plans ask for so many units
    E4  no amount: among others what is counted by a meter that does not add up (the last, the greatest, how many different),
        where the units of usage events say nothing about what they are worth together
What is tiered and only E2 or E3 has a low and a high amount. Over-billing is worth(usage) - worth(usage - surplus), in a
rating of its own: it is never netted with what is missing. Breaks whose units are counted `within` another control are
rated for themselves. Source: the catalogue of controls, section 5.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation, localcontext
from typing import TYPE_CHECKING, Any

from metering.engine import fetch
from metering.usage import register
from rating.allocation import allocate
from rating.errors import AmountOverflow
from rating.list_prices import CatalogPrices
from rating.rate import rate_usage
from rating.rounding import exact_sum

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    import duckdb

    from rating.terms import Terms

Row = dict[str, Any]
# A line: span, price, group. A cell of it is what a missing unit is added to.
_Line = tuple[int, str, str]

EXACT_DIGITS = 21
_QUANTITY_DIGITS = 9
_ZERO = Decimal(0)
_UNIT = Decimal(1).scaleb(-EXACT_DIGITS)


@dataclass(slots=True)
class _Added:
    """What is added to usage: per line and cell the quantity, and which break it comes from."""

    cells: dict[tuple[_Line, str], Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    shares: dict[_Line, list[tuple[int, Decimal]]] = field(default_factory=lambda: defaultdict(list))


def value_breaks(
    engine: duckdb.DuckDBPyConnection, terms: Terms, breaks: Sequence[Row], money: Mapping[str, str], as_of: datetime
) -> list[Row]:
    """Return the breaks with what they are worth. `money` has the basis that the head of each control allows at best.

    Rows with an amount of their own are EXACT and stay. low <= likely <= high: what a statement said of low or high stays.
    Amounts are exact money, unrounded. Tables of the engine are the same afterwards.
    """
    valued = [dict(row) for row in breaks]
    open_rows = {
        at: row
        for at, row in enumerate(valued)
        if not row["estimate_basis"] and money.get(row["control_id"], "none") not in {"none", "EXACT"}
    }
    wanted = {at: row for at, row in open_rows.items() if _quantity_of(row) > 0 and row["meter"]}
    known = {at: row for at, row in wanted.items() if row["tenant_id"] and money[row["control_id"]] == "E1"}
    _as_far_as_it_fits(known, lambda rows: _value_marginally(engine, rows, as_of))
    later = {
        at: _Rest(row, units)
        for at, row in wanted.items()
        if not row["estimate_basis"] and (units := _units_of(row, terms)) is not None
    }
    prices = CatalogPrices(terms, _list_prices(engine))
    steps: list[tuple[Callable[[int, _Rest], bool], Callable[[list[_Rest]], None]]] = [
        (lambda at, _: at in known, lambda rests: _value_by_last_plan(rests, prices)),
        (lambda _, rest: rest.basis(money) in {"E1", "E2"}, lambda rests: _value_as_realised(engine, rests, prices)),
        (lambda _, rest: rest.basis(money) != "E4", lambda rests: _value_by_list(rests, prices)),
    ]
    for takes, value in steps:
        taken = {at: rest.row for at, rest in _open(later).items() if takes(at, rest)}
        _as_far_as_it_fits(taken, lambda rows, value=value: value([later[at] for at in rows]))  # type: ignore[misc]
    for row in open_rows.values():
        row["estimate_basis"] = row["estimate_basis"] or "E4"
    for row in valued:
        if row["amount_likely"] is not None:
            row["amount_low"] = row["amount_likely"] if row["amount_low"] is None else row["amount_low"]
            row["amount_high"] = row["amount_likely"] if row["amount_high"] is None else row["amount_high"]
    return valued


@dataclass(frozen=True, slots=True)
class _Rest:
    """A break that no span of its tenant values: its row, and its units as its meter adds them up."""

    row: Row
    units: Decimal

    def basis(self, money: Mapping[str, str]) -> str:
        """Return the best basis that the head of its control allows."""
        return money[self.row["control_id"]]


def _open(rests: Mapping[int, _Rest]) -> dict[int, _Rest]:
    return {at: rest for at, rest in rests.items() if not rest.row["estimate_basis"]}


def _as_far_as_it_fits(rows: Mapping[int, Row], value: Callable[[Mapping[int, Row]], None]) -> None:
    """Value rows together; where an amount fits no decimal, half of the tenants' meters at a time.

    So one quantity in the wrong unit leaves nobody else without an amount; what does not fit by itself stays without one.
    """
    import duckdb
    import pyarrow as pa

    before = {at: dict(row) for at, row in rows.items()}
    try:
        value(rows)
    except (duckdb.OutOfRangeException, duckdb.ConversionException, pa.ArrowInvalid, AmountOverflow, InvalidOperation):
        for at, row in rows.items():
            row.update(before[at])
        keys = sorted({(row["tenant_id"] or "", row["meter"]) for row in rows.values()})
        if len(keys) < 2:
            return
        for half in (set(keys[: len(keys) // 2]), set(keys[len(keys) // 2 :])):
            part = {at: row for at, row in rows.items() if (row["tenant_id"] or "", row["meter"]) in half}
            _as_far_as_it_fits(part, value)


def _units_of(row: Row, terms: Terms) -> Decimal | None:
    """Return the units of a break as its meter adds them up; None where the meter does not add up, or none is left."""
    meter = terms.meters.get(row["meter"])
    aggregation = "sum" if meter is None else meter.aggregation
    if aggregation == "count":
        return Decimal(row["rows"]) if row["rows"] else _quantity_of(row)
    return _quantity_of(row) if aggregation == "sum" else None


def _quantity_of(row: Row) -> Decimal:
    quantity: Decimal = row["quantity_difference"] or _ZERO
    return quantity


def _set(
    row: Row, basis: str, currency: str, likely: Decimal, low: Decimal | None = None, high: Decimal | None = None
) -> None:
    row["estimate_basis"], row["currency"], row["amount_likely"] = basis, currency, likely
    row["amount_low"] = min(likely, low) if row["amount_low"] is None and low is not None else row["amount_low"]
    row["amount_high"] = max(likely, high) if row["amount_high"] is None and high is not None else row["amount_high"]


# --- E1: the engine that rates invoices, asked twice ------------------------------------------------------------------


def _value_marginally(engine: duckdb.DuckDBPyConnection, rows: Mapping[int, Row], as_of: datetime) -> None:
    """Set what each break is worth where a billing span of its tenant has a price for its meter that adds up units."""
    if not rows:
        return
    places = _places(engine, rows)
    groups: dict[tuple[str, bool], dict[int, Row]] = defaultdict(dict)
    for at, row in rows.items():
        if at in places:
            # Those whose units another control counts are rated for themselves.
            alone = "" if row["bucket"] else row["control_id"]
            groups[alone, row["class"] == "OVERBILL"][at] = row
    if not groups:
        return
    engine.execute("CREATE OR REPLACE TABLE stake_usage AS SELECT * FROM usage")
    before = _worth_of_lines(engine)
    try:
        for (_, is_surplus), members in sorted(groups.items(), key=lambda item: item[0]):
            added = _added_of(members, places, is_surplus=is_surplus)
            _rate_with(engine, added, as_of)
            _share(members, places, added, before, _worth_of_lines(engine), is_surplus=is_surplus)
    finally:
        engine.execute("CREATE OR REPLACE TABLE usage AS SELECT * FROM stake_usage")
        rate_usage(engine, as_of)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where units of a break would have been: its lines, each with its cells and their share of the units."""

    currency: str
    lines: Mapping[_Line, Mapping[str, Decimal]]
    counts_events: bool
    is_split: bool


def _places(engine: duckdb.DuckDBPyConnection, rows: Mapping[int, Row]) -> dict[int, _Place]:
    import pyarrow as pa

    asked = {(row["tenant_id"], row["meter"]) for row in rows.values()}
    tenants, meters = zip(*sorted(asked), strict=True)
    register(
        engine,
        "stake_asked",
        pa.table({"tenant_id": pa.array(tenants, pa.string()), "meter": pa.array(meters, pa.string())}),
    )
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for one in fetch(engine, _sql("stake_cell")).to_pylist():
        found[one["tenant_id"], one["meter"]].append(one)
    places = {}
    for at, row in rows.items():
        cells = _cells_at(found[row["tenant_id"], row["meter"]], row["occurred_at"])
        if cells:
            places[at] = _place_of(cells)
    return places


def _cells_at(cells: Sequence[Row], instant: datetime | None) -> list[Row]:
    """Return the cells of the span that holds an instant, else of the last one before it, else of the first."""
    if not cells:
        return []
    spans = {one["span_id"]: (one["service_start"], one["service_end"]) for one in cells}
    order = sorted(spans, key=lambda span: (spans[span], span))
    holding = [span for span in order if instant is not None and spans[span][0] <= instant < spans[span][1]]
    earlier = [span for span in order if instant is not None and spans[span][1] <= instant]
    chosen = holding[0] if holding else earlier[-1] if earlier else order[0]
    return [one for one in cells if one["span_id"] == chosen]


def _place_of(cells: Sequence[Row]) -> _Place:
    """Return where units go. A price without a filter takes all of them; those with one share them by what they took."""
    lines: dict[_Line, dict[str, Decimal]] = defaultdict(dict)
    filtered = exact_sum([one["quantity"] for one in cells if one["has_filter"]])
    by_selector: dict[str, Decimal] = defaultdict(Decimal)
    for one in cells:
        by_selector[one["selector_id"]] += one["quantity"]
    for one in cells:
        whole = filtered if one["has_filter"] else by_selector[one["selector_id"]]
        alone = len([other for other in cells if other["selector_id"] == one["selector_id"]]) == 1
        if not one["has_filter"] and alone:
            share = Decimal(1)
        elif whole > 0:
            with localcontext() as context:
                context.prec = 60
                share = one["quantity"] / whole
        else:
            share = _ZERO
        lines[one["span_id"], one["price_id"], one["group_key"]][one["cell_key"]] = share
    is_split = len(cells) > 1
    return _Place(cells[0]["currency"], lines, cells[0]["aggregation"] == "count", is_split)


def _added_of(rows: Mapping[int, Row], places: Mapping[int, _Place], *, is_surplus: bool) -> _Added:
    added = _Added()
    for at, row in rows.items():
        place = places[at]
        whole = Decimal(row["rows"]) if place.counts_events and row["rows"] else _quantity_of(row)
        weights = [
            (line, cell, share) for line, cells in place.lines.items() for cell, share in cells.items() if share > 0
        ]
        for line, cell, share in weights:
            with localcontext(prec=80):
                quantity = (whole * share).quantize(Decimal(1).scaleb(-_QUANTITY_DIGITS))
            if quantity > 0:
                signed = quantity.copy_negate() if is_surplus else quantity
                added.cells[line, cell] = exact_sum([added.cells[line, cell], signed])
                added.shares[line].append((at, quantity))
    return added


def _rate_with(engine: duckdb.DuckDBPyConnection, added: _Added, as_of: datetime) -> None:
    """Rate the usage of the spans again, with what is added."""
    import pyarrow as pa

    keys = sorted(added.cells)
    register(
        engine,
        "stake_added",
        pa.table(
            {
                "span_id": pa.array([line[0] for line, _ in keys], pa.int64()),
                "selector_id": pa.array([line[1] for line, _ in keys], pa.string()),
                "group_key": pa.array([line[2] for line, _ in keys], pa.string()),
                "cell_key": pa.array([cell for _, cell in keys], pa.string()),
                "added": pa.array([added.cells[key] for key in keys], pa.decimal128(38, _QUANTITY_DIGITS)),
            }
        ),
    )
    engine.execute(_sql("stake_usage"))
    rate_usage(engine, as_of)


def _worth_of_lines(engine: duckdb.DuckDBPyConnection) -> dict[_Line, Decimal]:
    rows = fetch(
        engine, "SELECT span_id, price_id, group_key, sum(exact_amount) AS amount FROM charge GROUP BY ALL"
    ).to_pylist()
    return {(row["span_id"], row["price_id"], row["group_key"]): row["amount"] for row in rows}


def _share(
    rows: Mapping[int, Row],
    places: Mapping[int, _Place],
    added: _Added,
    before: Mapping[_Line, Decimal],
    after: Mapping[_Line, Decimal],
    *,
    is_surplus: bool,
) -> None:
    """Share what every span is worth more (or less) over its lines that changed, and these over their breaks."""
    sign = -1 if is_surplus else 1
    differences: dict[int, dict[_Line, Decimal]] = defaultdict(dict)
    for line in {*before, *after}:
        differences[line[0]][line] = sign * (after.get(line, _ZERO) - before.get(line, _ZERO))
    amounts: dict[int, list[Decimal]] = defaultdict(list)
    units: dict[int, list[tuple[Decimal, Decimal]]] = defaultdict(list)
    for span_id in sorted({line[0] for line in added.shares}):
        lines = sorted(line for line in added.shares if line[0] == span_id)
        total = exact_sum(list(differences[span_id].values()))
        for line, amount in zip(
            lines, _parts(total, [differences[span_id].get(line, _ZERO) for line in lines]), strict=True
        ):
            shares = added.shares[line]
            parts = allocate(amount, [quantity for _, quantity in shares], EXACT_DIGITS)
            for (at, quantity), part in zip(shares, parts, strict=True):
                amounts[at].append(part)
                units[at].append((part, quantity))
    for at, row in rows.items():
        if at not in amounts:
            continue
        likely = exact_sum(amounts[at])
        bounds = _bounds(units[at]) if places[at].is_split and len(units[at]) > 1 else (None, None)
        _set(row, "E1", places[at].currency, likely, *bounds)


def _parts(total: Decimal, weights: Sequence[Decimal]) -> list[Decimal]:
    """Share what a span is worth more over the lines that changed: what a minimum or a discount takes of it, too."""
    positive = [max(weight, _ZERO) for weight in weights]
    if not any(positive):
        return [total, *[_ZERO] * (len(weights) - 1)] if weights else []
    shares = iter(allocate(total, [weight for weight in positive if weight], EXACT_DIGITS))
    return [next(shares) if weight else _ZERO for weight in positive]


def _bounds(units: Sequence[tuple[Decimal, Decimal]]) -> tuple[Decimal, Decimal]:
    """Return what all units are worth at the cheapest and at the dearest of the lines that they may belong to."""
    whole = exact_sum([quantity for _, quantity in units])
    prices = [_divided(amount, quantity) for amount, quantity in units]
    return _times(whole, min(prices)), _times(whole, max(prices))


def _divided(amount: Decimal, quantity: Decimal) -> Decimal:
    with localcontext() as context:
        context.prec = 60
        return amount / quantity


def _times(quantity: Decimal, unit_price: Decimal) -> Decimal:
    """Return the product, rounded half away from zero to the 21 decimals of exact amounts."""
    with localcontext() as context:
        context.prec = 80
        return (quantity * unit_price).quantize(_UNIT, rounding="ROUND_HALF_UP")


# --- where no span holds the use --------------------------------------------------------------------------------------


def _value_by_last_plan(rests: Sequence[_Rest], prices: CatalogPrices) -> None:
    """Set what use outside all spans is worth under the plan that its tenant was on last, from zero."""
    together: dict[tuple[str, str], list[_Rest]] = defaultdict(list)
    for rest in rests:
        together[rest.row["tenant_id"], rest.row["meter"]].append(rest)
    groups = sorted(together.items())
    asked = [
        (tenant_id, meter, members[0].row["occurred_at"], exact_sum([rest.units for rest in members]))
        for (tenant_id, meter), members in groups
    ]
    for (_, members), worth in zip(groups, prices.under_last_plans(asked), strict=True):
        if worth is not None:
            parts = allocate(worth.amount, [rest.units for rest in members], EXACT_DIGITS)
            for rest, part in zip(members, parts, strict=True):
                _set(rest.row, "E1", worth.currency, part)


def _value_as_realised(engine: duckdb.DuckDBPyConnection, rests: Sequence[_Rest], prices: CatalogPrices) -> None:
    """Set what units are worth at the price that the tenant's meter had in its last billing period before this one."""
    if not rests:
        return
    values = {"start_instant": min(rest.row["period_start"] for rest in rests)}
    realised = {
        (one["tenant_id"], one["meter"]): one for one in fetch(engine, _sql("stake_realised"), values).to_pylist()
    }
    for rest in rests:
        one = realised.get((rest.row["tenant_id"], rest.row["meter"]))
        if one is None:
            continue
        unit_price = _divided(one["exact_amount"], one["quantity"])
        low, high = prices.unit_bounds(one["plan"], one["plan_version"], one["price_id"], unit_price)
        likely, *bounds = (_times(rest.units, price) for price in (unit_price, low, high))
        _set(rest.row, "E2", one["currency"], likely, *bounds)


def _value_by_list(rests: Sequence[_Rest], prices: CatalogPrices) -> None:
    asked = [(rest.row["tenant_id"], rest.row["meter"], rest.units) for rest in rests]
    for rest, worth in zip(rests, prices.at_list(asked), strict=True):
        if worth is not None:
            _set(rest.row, "E3", worth.currency, worth.amount, worth.low, worth.high)


def _list_prices(engine: duckdb.DuckDBPyConnection) -> dict[str, tuple[str, Decimal]]:
    rows = fetch(engine, "SELECT meter, currency, unit_price FROM list_price").to_pylist()
    return {row["meter"]: (row["currency"], row["unit_price"]) for row in rows}


def _sql(name: str) -> str:
    from metering.engine import read_sql

    return read_sql("billing_adapters.reconciliation", name)
