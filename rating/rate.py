"""Step 7, rate: from usage to charges, and from charges to what is to be booked now.

Enters: an engine with the evidence of a snapshot, the terms of sale, and what earlier invoices booked.
Leaves: the tables `charge` (exact, unrounded), `worth` (per line, rounded once) and worth minus booked, as the tables
`invoice_line` and `line_charge`.
Refuses: to treat anything specially. Progressive invoices, late events, duplicates found later and changed terms are
all the one subtraction: worth(period, snapshot now) - booked(period). Money SQL has no division, no average, no rounding
but the one macro; tiers, plans and periods are rows that are joined.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metering.engine import open_engine, read_sql
from metering.usage import aggregate, register
from rating.adjust_steps import add_true_ups, adjust_charges
from rating.errors import AmountOverflow, UsageUnpriced
from rating.granted import load_granted
from rating.late import limits_of_spans, refuse_late
from rating.overflow import largest_part, named
from rating.pots import spent_before
from rating.spans import BillingSpans
from rating.terms import load_terms, usage_questions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime
    from decimal import Decimal

    import duckdb
    import pyarrow as pa

    from metering.rollups import Rollups
    from rating.pots import Pots
    from rating.prices import UsagePrice
    from rating.spans import BillingSpan
    from rating.terms import Terms

# What every price needs; then the statements that only some prices need, each with the prices that do.
MACROS = (
    "rounding", "exact_from_whole", "convert_quantity", "packages_of", "limited_amount", "holds_quantity",
    "adjust_ratio_size", "adjust_ratio",
)  # fmt: skip
HAS_UNPRICED = "price_type IN ('matrix', 'dynamic') OR is_weighted OR gap_is_lost OR tiers_end IS NOT NULL"
HAS_FLAT_PARTS = "price_type = 'flat' AND EXISTS (FROM flat_part)"
QUANTITY_STEPS = (
    ("usage_as_metered", "true"), ("usage_weighted", "is_weighted"),
    ("usage_combined", "combine_by IS NOT NULL"), ("usage_as_combined", "combine_by IS NOT NULL"),
    ("rated_usage", "true"),
    ("rated_usage_pooled", "is_pooled"), ("rated_usage_held", "price_type = 'volume' AND tiers_are_held"),
    ("rated_usage_before", "selector_before IS NOT NULL"),
    ("rated_usage_matrix", "pool IS NOT NULL AND NOT pool_is_pro_rata"), ("rated_usage_pro_rata", "pool_is_pro_rata"),
    ("charge", "true"),
)  # fmt: skip
CHARGE_STEPS = (
    ("charge_included", "included > 0 OR priced_is_largest OR included_is_by_span OR pool > 0"),
    ("charge_flat", "price_type = 'flat'"),
    ("charge_flat_part", HAS_FLAT_PARTS),
    ("charge_unit", "price_type = 'unit'"),
    ("charge_graduated", "price_type IN ('graduated', 'graduated_percentage') AND NOT tiers_are_held"),
    ("charge_graduated_by_day", "price_type = 'graduated' AND tiers_are_held"),
    ("charge_volume", "price_type IN ('volume', 'stairstep')"),
    ("charge_package", "price_type = 'package'"),
    ("charge_percentage", "price_type = 'percentage' AND NOT is_by_event"),
    ("charge_percentage_by_event", "is_by_event"),
    ("charge_matrix", "price_type = 'matrix'"),
    ("charge_dynamic", "price_type = 'dynamic'"),
    ("charge_capacity", "price_type = 'capacity'"),
    ("charge_bucket_commitment", "committed IS NOT NULL"),
    ("rated_usage_promised", "is_trued_up"),
    ("charge_amount_tier", "has_amount_tiers"),
    ("charge_line_limit", "line_minimum IS NOT NULL OR line_maximum IS NOT NULL"),
    ("charge_percent_of", "price_type = 'percent_of'"),
    ("unpriced_usage", HAS_UNPRICED),
    ("round_component", "rounds_components"),
)
# So many spans are grouped into lines at a time: a million of ten prices took more than the engine's memory.
SPANS_AT_ONCE = 250_000
BOOKING_STEPS = ("booked_span", "booked_line", "booked_charge", "charge_to_book", "line_to_book")
# Numbers first; words are put to them by views, where they are read.
PAPER_STEPS = ("line_in_order", "invoice_close", "invoice_line", "line_charge")
# The key of a line: one price of one subscription in one period, from one instant on (a change of plan begins a new one).
LINE_KEY = ("subscription_id", "period_start", "service_start", "currency", "price_id", "group_key")
# What was booked before, line by line, in the columns of the books.
BOOKED_LINE_COLUMNS = (
    *LINE_KEY, "tenant_id", "account_id", "plan",
    "plan_version", "price_type", "meter", "unit", "description", "period_end", "service_end",
    "quantity", "exact_amount", "amount",
)  # fmt: skip


@contextmanager
def overflow_named(engine: duckdb.DuckDBPyConnection, *, is_rated: bool = True) -> Iterator[None]:
    """Turn an overflow of the engine into AmountOverflow; of what was rated, it names whose lines are the largest part."""
    import duckdb

    try:
        yield
    except (duckdb.OutOfRangeException, duckdb.ConversionException) as error:
        message = "an amount does not fit into 15 digits before the point; nothing was booked"
        part = largest_part(engine) if is_rated else {}
        if part:
            message += (
                "; the largest part is that of tenant {tenant_id} under price {price_id}, for account {account_id}"
            )
            message = message.format(**part)
        details = {name: part[name] for name in ("account_id", "tenant_id", "price_id") if name in part}
        raise AmountOverflow(
            f"{message}; look for a quantity or unit price in the wrong unit ({str(error).splitlines()[0]})", **details
        ) from error


def rate(
    engine: duckdb.DuckDBPyConnection,
    terms: Terms,
    spans: Sequence[BillingSpan],
    as_of: datetime,
    *,
    rollups: Rollups | None = None,
) -> None:
    """Make `usage`, `charge` and `worth` for the billing spans. Idempotent.

    `as_of` decides what is due, never what it is worth: fees in arrears and volume prices wait for the period's end.
    With `rollups`, states of usage that were worked out before are used, where they fit; nothing else changes.
    Use that a price takes and has no amount for is in `unpriced_usage`: it is not billed, and reconciliation finds it; one
    strange attribute of one tenant holds up nobody's invoice. Raises AmountOverflow, with the tenant and the price, where a sum
    or a product does not fit.
    """
    columns = BillingSpans.of(spans)
    try:
        _rate(engine, terms, columns, as_of, rollups)
    except AmountOverflow as error:
        raise named(engine, error, terms, columns, lambda some, few: _rate(engine, some, few, as_of, None)) from error


def _rate(
    engine: duckdb.DuckDBPyConnection, terms: Terms, columns: BillingSpans, as_of: datetime, rollups: Rollups | None
) -> None:
    pots = spent_before(
        engine, terms, columns, lambda some, whole: _rate_alone(engine, terms, some, whole, as_of, rollups)
    )
    _rate_alone(engine, terms, columns, pots, as_of, rollups)


def _rate_alone(
    engine: duckdb.DuckDBPyConnection,
    terms: Terms,
    columns: BillingSpans,
    pots: Pots,
    as_of: datetime,
    rollups: Rollups | None,
) -> None:
    load_terms(engine, terms, columns, pots)
    # Whose it is, is found out by rating again; lines of an earlier call may still lie here.
    with overflow_named(engine, is_rated=False):
        refuse_late(engine, limits_of_spans(terms, columns))
        load_granted(engine, terms, columns)
        aggregate(engine, *usage_questions(terms, columns), rollups=rollups)
        rate_usage(engine, as_of)


def rate_usage(engine: duckdb.DuckDBPyConnection, as_of: datetime) -> None:
    """Make `charge` and `worth` from the tables `usage`, `billing_span` and the terms."""
    for macro in MACROS:
        engine.execute(read_sql("rating", macro))
    engine.execute(read_sql("rating", "unpriced_none"))
    for step in _steps_needed(engine):
        statement = read_sql("rating", step)
        engine.execute(statement, {"as_of": as_of} if "$as_of" in statement else None)
    adjust_charges(engine)
    engine.execute(read_sql("rating", "worth_line_none"))
    [(spans,)] = engine.execute("SELECT coalesce(max(span_id), -1) + 1 FROM billing_span").fetchall()
    for first in range(0, spans, SPANS_AT_ONCE):
        engine.execute(read_sql("rating", "worth_line"), {"first_span": first, "end_span": first + SPANS_AT_ONCE})
    engine.execute(read_sql("rating", "worth"))
    add_true_ups(engine, as_of)


def _steps_needed(engine: duckdb.DuckDBPyConnection) -> list[str]:
    """Return the steps that some price needs, in their order. Asked at once: a statement costs more than its rows."""
    steps = (*QUANTITY_STEPS, *CHARGE_STEPS)
    asked = ", ".join(f"coalesce(bool_or({needed_by}), {needed_by == 'true'})" for _, needed_by in steps)
    [needed] = engine.execute(f"SELECT {asked} FROM price").fetchall()
    return [step for (step, _), is_needed in zip(steps, needed, strict=True) if is_needed]


def subtract_booked(
    engine: duckdb.DuckDBPyConnection,
    booked_lines: pa.Table,
    booked_charges: pa.Table,
    close_id: str,
    *,
    narrow: Callable[[duckdb.DuckDBPyConnection], None] | None = None,
) -> None:
    """Make `invoice_line` and `line_charge`: worth minus booked, in the order of paper. Pure: same tables, same rows.

    `narrow` may take rows out of `line_to_book` (rating.scope); what it takes out stays to be booked by a later close.
    """
    register(engine, "booked_line_row", booked_lines)
    register(engine, "booked_charge_row", booked_charges)
    with overflow_named(engine):
        for step in BOOKING_STEPS:
            engine.execute(read_sql("rating", step))
        if narrow is not None:
            narrow(engine)
        for step in PAPER_STEPS:
            engine.execute(read_sql("rating", step), {"close_id": close_id} if step == "invoice_close" else None)


@dataclass(frozen=True, slots=True)
class RatedCharge:
    """One component: a quantity in a tier at a unit price (`unit`), or a fixed amount (`flat`). Exact, unrounded."""

    cell_key: str
    tier: int
    part: str
    quantity: Decimal
    unit_price: Decimal
    exact_amount: Decimal


@dataclass(frozen=True, slots=True)
class RatedQuantity:
    """What a quantity is worth under one price; `amount` is `exact_amount` rounded once to the currency's minor unit."""

    quantity: Decimal
    charges: tuple[RatedCharge, ...]
    exact_amount: Decimal
    amount: Decimal


def rate_quantities(
    prices: Sequence[UsagePrice],
    quantities: Sequence[Decimal],
    *,
    currency: str = "USD",
    switches: Mapping[str, str] | None = None,
) -> list[RatedQuantity]:
    """Return what each quantity is worth under the price beside it, by the very SQL that rates invoices.

    For previews, price pages and tests: no tenant, no period, no usage events. One engine for all of them. `switches` say how
    the prices are read, as those of a plan do. Use that they leave without a price raises UsageUnpriced.
    """
    from rating.preview import load_preview

    engine = open_engine(threads=1)
    try:
        as_of = load_preview(engine, prices, quantities, currency, switches or {})
        with overflow_named(engine):
            rate_usage(engine, as_of)
            check_priced(engine)
        return list(read_rated(engine).values())
    finally:
        engine.close()


def read_rated(engine: duckdb.DuckDBPyConnection) -> dict[tuple[int, str], RatedQuantity]:
    """Return every line of `worth` with its charges, by span and group key, in that order."""
    charges = engine.execute(
        "SELECT span_id, group_key, cell_key, tier, part, quantity, unit_price, exact_amount FROM charge ORDER BY ALL"
    ).fetchall()
    found: dict[tuple[int, str], list[RatedCharge]] = {}
    for span_id, group_key, *charge in charges:
        found.setdefault((span_id, group_key), []).append(RatedCharge(*charge))
    worth = engine.execute(
        "SELECT span_id, group_key, quantity, exact_amount, amount FROM worth ORDER BY span_id, group_key"
    ).fetchall()
    return {
        (span_id, group_key): RatedQuantity(quantity, tuple(found.get((span_id, group_key), [])), exact_amount, amount)
        for span_id, group_key, quantity, exact_amount, amount in worth
    }


def rate_quantity(
    price: UsagePrice, quantity: Decimal, *, currency: str = "USD", switches: Mapping[str, str] | None = None
) -> RatedQuantity:
    """Return what one quantity is worth under one price, with its tiers. See rate_quantities."""
    return rate_quantities([price], [quantity], currency=currency, switches=switches)[0]


def check_priced(engine: duckdb.DuckDBPyConnection) -> None:
    """Raise UsageUnpriced if some use has no amount, naming the largest: for who asks what a price is worth."""
    rows = engine.execute(
        "SELECT tenant_id, plan, plan_version, price_id, cell_key, event_count, quantity FROM unpriced_usage"
        " JOIN billing_span USING (span_id) ORDER BY quantity DESC, event_count DESC, tenant_id, price_id, cell_key LIMIT 1"
    ).fetchall()
    for tenant_id, plan, version, price_id, cell_key, event_count, quantity in rows:
        raise UsageUnpriced(
            f"tenant {tenant_id} used {quantity} in {event_count} events that price {price_id} of {plan} version {version} "
            f"takes and has no amount for, at {cell_key or 'no attribute'}: in a new version of the plan "
            "name that value or give the price a default, or correct the events",
            tenant_id=tenant_id, price_id=price_id, cell_key=cell_key, quantity=quantity,
        )  # fmt: skip
