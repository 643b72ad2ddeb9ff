"""The conservation of a period: what was recorded, stored, rated and invoiced, each against an independent figure.

Enters: an engine with the evidence of a snapshot, what producers promised, the terms of sale, what was booked.
Leaves: a Statement. Refuses: to write, to read a clock, to correct anything. Every figure is one statement in `sql/`.

Time: capture is counted by UTC date of event_time, for that is how producers count what they promise; usage by the
same dates, so that what is stored is the same in both equations; money by the billing periods that belong to the
period, each in its plan's zone. So each equation is closed in itself, and no two of them need to agree.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

from billing_adapters.errors import TotalOverflow
from billing_adapters.reconciliation.against_provider import compare, net_of_documents
from billing_adapters.reconciliation.control_runs import Asked, run_controls
from billing_adapters.reconciliation.controls import our_controls
from billing_adapters.reconciliation.inputs import register_given
from billing_adapters.reconciliation.recover_by import add_deadlines
from billing_adapters.reconciliation.stake import value_breaks
from billing_adapters.reconciliation.statement import (
    Finding,
    Statement,
    count_rows,
    money_rows,
    period_text,
)
from billing_adapters.reconciliation.tables import break_schema
from billing_adapters.reconciliation.terms_tables import load_terms_tables
from metering.engine import read_sql
from metering.periods import Period, parse_period
from metering.usage import Span, aggregate, register
from rating.frozen import frozen_spans
from rating.iso4217 import MINOR_UNITS
from rating.late import limits_between, refuse_late
from rating.phases import OVERRIDDEN
from rating.rate import overflow_named, rate
from rating.spans import plan_key
from rating.tables import load_table
from rating.terms import billing_spans, plans_over_time, selectors_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    import duckdb
    import pyarrow as pa

    from billing_adapters.reconciliation.against_provider import Compared
    from billing_adapters.reconciliation.controls import Control, Refused
    from billing_adapters.reconciliation.recover_by import Accepts
    from metering.batch import SegmentBatch
    from metering.periods import WallPeriod
    from metering.usage import Snapshot
    from rating.plans import Plan, Subscription
    from rating.terms import Terms

_Row = dict[str, Any]

_PACKAGE = "billing_adapters.reconciliation"


@dataclass(frozen=True, slots=True)
class Capture:
    """What producers promised and what was refused on the way.

    `segments` and `dead_letters` as the lake returns them; `in_flight` has the columns of `in_flight_schema`: control
    totals of segments that are still in the journal. `snapshot` is the one whose evidence the engine holds.
    Read the journal before the lake: what was shipped in between is then counted once, in the lake.
    """

    snapshot: Snapshot
    segments: pa.Table
    dead_letters: pa.Table
    in_flight: pa.Table


@dataclass(frozen=True, slots=True)
class Bookings:
    """What final invoices booked, as `rating.ledger.booked_before` returns it: one row per booking of a line, of a charge.

    `is_complete`: a close saw the period's end, so whatever is worth more or less now waits for a correction.
    """

    lines: pa.Table
    charges: pa.Table
    is_complete: bool


@cache
def in_flight_schema() -> pa.Schema:
    """Return IN_FLIGHT: rows and quantity per (producer, segment, tenant, meter, UTC date), of segments in the journal.

    `recorded_from`: when the first row of the segment was recorded, by the producer's clock.
    """
    import pyarrow as pa

    from metering.events import control_total_type

    return pa.schema(
        [
            pa.field("producer_id", pa.string(), nullable=False),
            pa.field("segment", pa.int64(), nullable=False),
            *control_total_type(),
            pa.field("recorded_from", pa.timestamp("us", tz="UTC")),
        ]
    )


@cache
def entitled_use_schema() -> pa.Schema:
    """Return ENTITLED_USE: use beyond grants in the period, per (tenant, feature, subscription), in units of the meter.

    `overage` says what the entitlement declares of it: allowed or blocked.
    """
    import pyarrow as pa

    names = [pa.field(name, pa.string(), nullable=False) for name in ("tenant_id", "feature", "meter", "overage")]
    quantity = pa.decimal128(38, 9)
    return pa.schema([*names, pa.field("used", quantity), pa.field("over_used", quantity)])


def in_flight_of(batches: Iterable[SegmentBatch]) -> pa.Table:
    """Return the control totals of segments that are not in the lake yet, from the segments themselves."""
    import pyarrow as pa
    import pyarrow.compute as pc

    schema = in_flight_schema()
    tables = [schema.empty_table()]
    for batch in batches:
        count = batch.totals.num_rows
        identity = [pa.array([batch.producer_id] * count, pa.string()), pa.array([batch.segment] * count, pa.int64())]
        instants = [pc.min(part["recorded_at"]).as_py() for part in (batch.events, batch.dead_letters)]
        first = min((one for one in instants if one is not None), default=None)
        recorded = pa.array([first] * count, schema.field("recorded_from").type)
        tables.append(pa.table([*identity, *batch.totals.columns, recorded], schema=schema))
    return pa.concat_tables(tables)


def conservation(
    engine: duckdb.DuckDBPyConnection,
    period: WallPeriod,
    capture: Capture,
    terms: Terms,
    bookings: Bookings,
    *,
    as_of: datetime,
    entitled: pa.Table | None = None,
    given: Mapping[str, pa.Table] | None = None,
    controls: Sequence[Control] | None = None,
    refused: Sequence[Refused] = (),
    compared: Sequence[Compared] = (),
    looked_at: datetime | None = None,
    windows: Mapping[str, Sequence[Accepts]] | None = None,
) -> Statement:
    """Return the conservation statement of a period, with what every control found. Pure: the same tables, the same statement.

    `engine` holds the evidence of `capture.snapshot` (`metering.usage.open_evidence` over all data files: a duplicate may
    be one of last year's usage event). Its tables `usage`, `charge` and `worth` are replaced. `as_of` decides which fees
    are due. `entitled` is ENTITLED_USE of the period: what was used beyond what grants cover. `given` has the tables of
    documents and witnesses that controls read (`reconciliation.inputs`), by name; `controls` are by default ours. `compared`
    has the adapters whose deliveries are followed to what was collected (`against_provider`). Ages count until `looked_at`, by
    default `as_of`; `windows` has by tenant the adapters that bill by its usage, and until when. Raises
    TotalOverflow or rating's AmountOverflow where a sum leaves its decimal, ValueError for a given table with other columns;
    never for a difference.
    """
    import pyarrow as pa

    dates = Period(period.start.replace(tzinfo=UTC), period.end.replace(tzinfo=UTC))
    values = _values_of(dates)
    with _overflow_named():
        _load_capture(engine, capture, values)
        recorded = _rows(engine, "recorded", values)
        _load_attribution(engine, terms, dates)
        _execute(engine, "unrated", values)
        stored = _rows(engine, "stored", values)
    _load_money(engine, period, terms, bookings, as_of)
    register(engine, "entitled_use", entitled_use_schema().empty_table() if entitled is None else entitled)
    with _overflow_named():
        money = _rows(engine, "rated_value", values)
    absent = register_given(engine, given or {})
    with _overflow_named():
        collected = [*net_of_documents(engine), *compare(engine, compared, dates.start, dates.end)]
    at = looked_at or as_of
    asked = Asked(period_text(period), **values, as_of=at, pinned=capture.snapshot.snapshot_id, absent=absent)
    ran = our_controls() if controls is None else controls
    breaks, runs = _controlled(engine, terms, ran, refused, asked, as_of, windows or {})
    return Statement(
        period=period,
        rows=(
            *count_rows("recorded", map(_counted, recorded)),
            *count_rows("stored", map(_counted, stored)),
            *money_rows(_money(row, bookings) for row in money),
            *collected,
        ),
        findings=tuple(map(_finding, breaks)),
        breaks=pa.Table.from_pylist(breaks, schema=break_schema()),
        runs=runs,
    )


def _controlled(
    engine: duckdb.DuckDBPyConnection,
    terms: Terms,
    controls: Sequence[Control],
    refused: Sequence[Refused],
    asked: Asked,
    as_of: datetime,
    windows: Mapping[str, Sequence[Accepts]],
) -> tuple[list[_Row], pa.Table]:
    """Return what every control found, what it is worth and until when; and how each ran."""
    load_terms_tables(engine, terms)
    found, runs = run_controls(engine, controls, refused, asked)
    valued = value_breaks(engine, terms, found, {control.control_id: control.money for control in controls}, as_of)
    return add_deadlines(valued, {control.control_id: control.point for control in controls}, terms, windows), runs


def _values_of(dates: Period) -> dict[str, Any]:
    """Return what statements call the bounds of the period: UTC dates and instants, the end open."""
    return {
        "first_date": dates.start.date(),
        "end_date": dates.end.date(),
        "start_instant": dates.start,
        "end_instant": dates.end,
    }


def _counted(row: _Row) -> tuple[str, str, int, Decimal]:
    return row["meter"], row["bucket"], row["rows"], row["quantity"]


def _money(row: _Row, bookings: Bookings) -> tuple[str, str, str, Decimal]:
    bucket = row["bucket"]
    if bucket == "not_invoiced":
        # Once the period is closed, whatever is worth more or less now goes into the invoice of a later one.
        bucket = "waiting_corrections" if bookings.is_complete else "not_finalised"
    return row["meter"], row["currency"], bucket, row["amount"]


def _finding(row: _Row) -> Finding:
    names = [field.name for field in fields(Finding) if field.name != "finding_class"]
    return Finding(finding_class=row["class"], **{name: row[name] for name in names})


def _load_capture(engine: duckdb.DuckDBPyConnection, capture: Capture, values: dict[str, Any]) -> None:
    import pyarrow as pa

    producers, segments = zip(*capture.snapshot.cut, strict=True) if capture.snapshot.cut else ((), ())
    cut = {"producer_id": pa.array(producers, pa.string()), "last_segment": pa.array(segments, pa.int64())}
    register(engine, "snapshot_cut", pa.table(cut))
    register(engine, "segment_trailer", capture.segments)
    register(engine, "dead_letter_row", capture.dead_letters)
    register(engine, "in_flight_total", capture.in_flight)
    for step in ("promised", "dead_lettered", "held", "segment_gap", "break_of_segment"):
        _execute(engine, step, values)


def _load_attribution(engine: duckdb.DuckDBPyConnection, terms: Terms, dates: Period) -> None:
    """Make `span`, `selection` and `priced`: which use of the dates some price of a subscription selects."""
    import pyarrow as pa

    found = [
        (subscription, plan, Period(start, end))
        for subscription in terms.subscriptions
        for plan, phase in plans_over_time(terms, subscription)
        if (start := max(phase.start, dates.start)) < (end := min(phase.end, dates.end))
    ]
    keys = [_key_of(subscription, plan) for subscription, plan, _ in found]
    spans = [
        Span(at, one.tenant, key, span.start, span.end, plan.billing_period.timezone)
        for at, ((one, plan, span), key) in enumerate(zip(found, keys, strict=True))
    ]
    selectors = [
        selector
        for key in sorted(set(keys))
        for price in terms.plans[key].prices
        for selector in selectors_of(key, price, terms.meters, terms.plans[key].reading)
    ]
    columns = {"subscription_id": "text", "tenant_id": "text", "plan": "text", "plan_version": "int"}
    columns |= {"service_start": "instant", "service_end": "instant"}
    rows = [(one.id, one.tenant, plan.name, plan.version, span.start, span.end) for one, plan, span in found]
    load_table(engine, "service_span", columns, rows)
    register(engine, "known_tenant", pa.table({"tenant_id": pa.array(sorted(terms.tenants()), pa.string())}))
    register(engine, "known_meter", pa.table({"meter": pa.array(sorted(terms.meters), pa.string())}))
    refuse_late(engine, limits_between(terms, dates))
    aggregate(engine, spans, selectors)
    for step in ("priced", "late_usage", "counted_event"):
        _execute(engine, step, {})


def _key_of(subscription: Subscription, plan: Plan) -> str:
    """Return under which key the terms hold a plan as it is for this subscription, overrides included."""
    return plan_key(plan.name, plan.version) + (f"{OVERRIDDEN}{subscription.id}" if subscription.overrides else "")


def _load_money(
    engine: duckdb.DuckDBPyConnection, period: WallPeriod, terms: Terms, bookings: Bookings, as_of: datetime
) -> None:
    """Make `charge` for the billing periods of the period, and `booked` for what was invoiced of them."""
    import pyarrow as pa

    spans = billing_spans(terms, period)
    rate(engine, terms, spans, as_of)
    # The next close is one of the month that is running now.
    now = parse_period(f"{as_of:%Y-%m}")
    frozen = frozen_spans(terms, spans, lambda: [period] if bookings.is_complete else [], now)
    load_table(engine, "frozen_span", {"span_id": "int"}, [(number,) for number in frozen])
    register(engine, "booked_line_row", bookings.lines)
    register(engine, "booked_charge_row", bookings.charges)
    factors = [Decimal(10) ** digits for digits in MINOR_UNITS.values()]
    units = [Decimal(1).scaleb(-digits) for digits in MINOR_UNITS.values()]
    register(
        engine,
        "currency_unit",
        pa.table(
            {
                "currency": pa.array(list(MINOR_UNITS), pa.string()),
                "minor_per_major": pa.array(factors, pa.decimal128(18, 0)),
                "minor_unit": pa.array(units, pa.decimal128(24, 12)),
            }
        ),
    )
    plans = [(plan, period.in_zone(plan.billing_period.timezone)) for _, plan in sorted(terms.plans.items())]
    instant = pa.timestamp("us", tz="UTC")
    register(
        engine,
        "plan_period",
        pa.table(
            {
                "plan": pa.array([plan.name for plan, _ in plans], pa.string()),
                "plan_version": pa.array([plan.version for plan, _ in plans], pa.int64()),
                "start_instant": pa.array([span.start for _, span in plans], instant),
                "end_instant": pa.array([span.end for _, span in plans], instant),
            }
        ),
    )
    with overflow_named(engine):
        for step in ("booked_span", "booked_line", "booked_charge"):
            engine.execute(read_sql("rating", step))
        _execute(engine, "booked", {})


def _execute(engine: duckdb.DuckDBPyConnection, name: str, values: dict[str, Any]) -> duckdb.DuckDBPyConnection:
    statement = read_sql(_PACKAGE, name)
    # A statement is given the values it names and no others.
    return engine.execute(statement, {key: value for key, value in values.items() if f"${key}" in statement})


def _rows(engine: duckdb.DuckDBPyConnection, name: str, values: dict[str, Any]) -> list[_Row]:
    result = _execute(engine, name, values)
    columns = [column[0] for column in result.description or ()]
    return [dict(zip(columns, row, strict=True)) for row in result.fetchall()]


@contextmanager
def _overflow_named() -> Iterator[None]:
    import duckdb

    try:
        yield
    except (duckdb.OutOfRangeException, duckdb.ConversionException) as error:
        raise TotalOverflow(
            "a total of the statement does not fit 29 digits before the point; look for a quantity in the wrong unit "
            f"({str(error).splitlines()[0]})"
        ) from error
