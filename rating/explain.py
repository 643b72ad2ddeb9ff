"""Why a line says what it says: down to the steps, the tiers, the usage and the events behind it.

Enters: a line id. Leaves: an Explanation, recomputed from the snapshot that the invoice pins.
Refuses: to explain from anything but that snapshot; what arrived later belongs to a later invoice. Nothing is computed
here: the steps are read off the tables that rate invoices, for the spans of the one account.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metering.engine import fetch, read_sql
from metering.numbers import trimmed
from metering.usage import register
from rating.close import Close, read_closes
from rating.errors import NotFound
from rating.explain_quantity import INCLUDED, base_steps, grouped, pot_steps, quantity_steps, rows_of
from rating.explanation import ADJUSTMENTS, PARTS, Explanation, OriginEvent, Step, is_of_price
from rating.invoice import Charge, InvoiceLine
from rating.iso4217 import minor_units
from rating.ledger import invoice_of_line
from rating.rounding import exact_sum
from rating.run import rated_spans, spans_of
from rating.terms import Terms

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    import duckdb
    from sqlalchemy import Connection

    from rating.plans import Plan


__all__ = ["Explanation", "OriginEvent", "Step", "close_of_line", "explain_line"]

SAMPLE_EVENTS = 10


def explain_line(connection: Connection, line_id: str, close: Close, terms: Terms, files: Sequence[str]) -> Explanation:
    """Return why a line says what it says. `close` is the one its invoice names, `terms` those of its revision."""
    invoice, line = invoice_of_line(connection, line_id)
    every = spans_of(connection, close, terms)
    spans = every.take(place for place, account in enumerate(every.accounts) if account == invoice.account_id)
    tenants = set(spans.tenants)
    with rated_spans(files, close.snapshot, terms, spans, close.as_of, tenants=tenants) as engine:
        span_id = _span_of(engine, line)
        tiers = _components(engine, line, span_id)
        steps = _steps(engine, terms, line, span_id, tiers)
        latest_first = _aggregation(terms, line) == "last"
        event_count, new_event_count, events = _events_of(connection, engine, close, line, span_id, latest_first)
        taken_back_count, taken_back = _taken_back(engine, line, span_id)
    return Explanation(
        invoice=invoice,
        line=line,
        steps=steps,
        tiers=tiers,
        booked_before=line.cumulative_amount - line.amount,
        event_count=event_count,
        new_event_count=new_event_count,
        events=events,
        taken_back_count=taken_back_count,
        taken_back=taken_back,
    )


def close_of_line(connection: Connection, line_id: str) -> Close:
    """Return the close that the invoice of a line came from. Raises NotFound."""
    invoice, _ = invoice_of_line(connection, line_id)
    found = read_closes(connection, close_id=invoice.close_id)
    if not found:
        raise NotFound(f"close {invoice.close_id} of line {line_id} is not in the books", line_id=line_id)
    return found[0]


def _span_of(engine: duckdb.DuckDBPyConnection, line: InvoiceLine) -> int:
    statement = (
        "SELECT span_id FROM billing_span WHERE subscription_id = $subscription_id"
        " AND period_start = $period_start AND service_start = $service_start"
    )
    question: dict[str, object] = {
        "subscription_id": line.subscription_id,
        "period_start": line.period_start,
        "service_start": line.service_start,
    }
    found = fetch(engine, statement, question).to_pylist()
    # A line of a billing period that the terms no longer know was reversed; no span, and so no usage, stands behind it.
    return int(found[0]["span_id"]) if found else -1


def _components(engine: duckdb.DuckDBPyConnection, line: InvoiceLine, span_id: int) -> tuple[Charge, ...]:
    rows = rows_of(engine, "charge", "price_id", line, span_id)
    charges = [Charge(**{name: row[name] for name in Charge.__slots__}) for row in rows]
    # Usage before the flat amounts of a tier, as on paper: `unit` comes after `flat` in the alphabet.
    charges.sort(key=lambda one: one.unit_price)
    charges.sort(key=lambda one: one.part, reverse=True)
    return tuple(sorted(charges, key=lambda one: (one.cell_key, one.tier)))


def _steps(
    engine: duckdb.DuckDBPyConnection, terms: Terms, line: InvoiceLine, span_id: int, tiers: Sequence[Charge]
) -> tuple[Step, ...]:
    plan = terms.plan_for(line.subscription_id, line.plan, line.plan_version)
    price = _price_of(terms, line)
    priced = [charge for charge in tiers if is_of_price(charge.part) and charge.part != INCLUDED]
    steps = quantity_steps(engine, terms.meters, line, span_id, price)
    steps += base_steps(engine, line, span_id, price, minor_units(line.currency), plan)
    steps.append(
        Step(
            "price",
            f"{_type_text(line)} {line.price_id} of {line.plan} version {line.plan_version}",
            exact_amount=_sum(priced),
            children=_by_cell(priced, price, line.unit),
        )
    )
    for kind in ADJUSTMENTS:
        steps += pot_steps(engine, plan, line, span_id) if kind == "overage" else ()
        steps += [_adjustment(charge, plan) for charge in tiers if _kind(charge) == kind]
    booked_before = line.cumulative_amount - line.amount
    steps += [
        Step("worth", "what the period is worth, exact", exact_amount=line.cumulative_exact_amount),
        Step("rounded", f"rounded once to {line.currency}", amount=line.cumulative_amount),
        Step("booked_before", "booked by earlier invoices", amount=-booked_before if booked_before else booked_before),
        Step("amount", "this line", amount=line.amount),
    ]
    return tuple(steps)


def _aggregation(terms: Terms, line: InvoiceLine) -> str:
    meter = terms.meters.get(line.meter or "")
    return meter.aggregation if meter is not None else ""


def _price_of(terms: Terms, line: InvoiceLine) -> Any:
    """Return the price of a line; None for a line that no price of the plan stands behind, such as a true-up."""
    plan = terms.plan_for(line.subscription_id, line.plan, line.plan_version)
    return next((price for price in plan.prices if price.id == line.price_id), None) if plan else None


def _type_text(line: InvoiceLine) -> str:
    """Return what stands behind a line: a price, or the minimum of a plan that usage did not reach."""
    return line.price_type if line.price_type == "minimum" else f"{line.price_type.replace('_', ' ')} price"


def _kind(charge: Charge) -> str:
    return charge.part.partition(":")[0]


def _adjustment(charge: Charge, plan: Plan | None) -> Step:
    kind, _, name = charge.part.partition(":")
    text = ADJUSTMENTS[kind].format(name).rstrip()
    if kind == "overage" and plan and any(one.id == name and one.share == "pro_rata" for one in plan.commitments):
        text += ", in proportion"
    return Step(kind, text, exact_amount=charge.exact_amount, part=charge.part)


def _by_cell(charges: Sequence[Charge], price: Any, unit: str | None) -> tuple[Step, ...]:
    """Return the components of a price; where it has cells (of a matrix, or buckets of time) those of each below it."""
    cells = list(dict.fromkeys(charge.cell_key for charge in charges))
    parts = {cell: tuple(_component(one, price, unit) for one in charges if one.cell_key == cell) for cell in cells}
    if cells in ([], [""]):
        return parts.get("", ())
    return tuple(
        Step("cell", cell or "of the whole line", exact_amount=_sum([one for one in charges if one.cell_key == cell]),
             cell_key=cell, children=parts[cell])
        for cell in cells
    )  # fmt: skip


def _component(charge: Charge, price: Any, unit: str | None) -> Step:
    text = PARTS.get(charge.part, charge.part)
    if charge.part == "percent_of" and price is not None:
        text = f"{trimmed(price.percent)} percent of that"
    if charge.part == "amount_tier" and price is not None:
        off = price.amount_tiers[charge.tier - 1].percent_off
        text = f"{trimmed(off)} percent off the amount {_edges_text(charge, price.amount_tiers)}".rstrip()
    tiers = getattr(price, "tiers", ())
    tier = tiers[charge.tier - 1] if 1 <= charge.tier <= len(tiers) else None
    if tier is not None and charge.part in {"unit", "flat"}:
        text = f"tier {charge.tier}, {_tier_text(charge, tiers)}" + (f", {text}" if charge.part != "unit" else "")
    size = getattr(price if tier is None else tier, "package_size", None)
    if size is not None and charge.part == "unit":
        packages = f"packages of {grouped(size)} {unit}"
        text, unit = packages if tier is None else f"{text}: {packages}", "package"
    return Step(
        "component",
        text,
        quantity=charge.quantity,
        unit=unit if charge.part == "unit" else None,
        unit_price=charge.unit_price,
        exact_amount=charge.exact_amount,
        cell_key=charge.cell_key,
        tier=charge.tier,
        part=charge.part,
    )


def _tier_text(charge: Charge, tiers: Sequence[Any]) -> str:
    limits = getattr(tiers[charge.tier - 1], "limits", None)
    if limits is not None:
        return ", ".join(f"{name} up to {grouped(limit)}" for name, limit in limits.items()) or "without limits"
    return _edges_text(charge, tiers) or "every quantity"


def _edges_text(charge: Charge, tiers: Sequence[Any]) -> str:
    """Return between which edges the tier of a charge lies."""
    above = tiers[charge.tier - 2].up_to if charge.tier > 1 else None
    up_to = tiers[charge.tier - 1].up_to
    edges = [f"above {grouped(above)}"] if above is not None else []
    edges += [f"up to {grouped(up_to)}"] if up_to is not None else []
    return " ".join(edges)


def _sum(charges: Sequence[Charge]) -> Decimal:
    return exact_sum([charge.exact_amount for charge in charges])


def _events_of(
    connection: Connection,
    engine: duckdb.DuckDBPyConnection,
    close: Close,
    line: InvoiceLine,
    span_id: int,
    latest_first: bool,
) -> tuple[int, int, tuple[OriginEvent, ...]]:
    import pyarrow as pa

    before = [other for other in read_closes(connection) if not other.is_draft and other.position < close.position]
    cut = before[-1].snapshot.cut if before else ()
    register(
        engine,
        "seen",
        pa.table(
            {
                "producer_id": pa.array([producer for producer, _ in cut], pa.string()),
                "last_segment": pa.array([segment for _, segment in cut], pa.int64()),
            }
        ),
    )
    question: dict[str, object] = {
        "span_id": span_id,
        "price_id": line.price_id,
        "group_key": line.group_key,
        "sample": SAMPLE_EVENTS,
        # What the last event said is the quantity; elsewhere the largest events say most.
        "latest_first": latest_first,
    }
    rows = fetch(engine, read_sql("rating", "explain_event"), question).to_pylist()
    events = tuple(OriginEvent(**{name: row[name] for name in OriginEvent.__slots__}) for row in rows)
    return (rows[0]["event_count"], rows[0]["new_event_count"], events) if rows else (0, 0, ())


def _taken_back(
    engine: duckdb.DuckDBPyConnection, line: InvoiceLine, span_id: int
) -> tuple[int, tuple[OriginEvent, ...]]:
    """Return how many events of the line count no more, and the largest of them; `seen` is loaded."""
    question: dict[str, object] = {
        "span_id": span_id, "price_id": line.price_id, "group_key": line.group_key, "sample": SAMPLE_EVENTS,
    }  # fmt: skip
    rows = fetch(engine, read_sql("rating", "explain_taken_back"), question).to_pylist()
    events = tuple(OriginEvent(**{name: row[name] for name in OriginEvent.__slots__}) for row in rows)
    return (rows[0]["event_count"] if rows else 0), events
