"""A small world to reconcile: what producers wrote, what the lake holds of it, and the terms of sale.

Segments are made as capture makes them (trailers with control totals, chained by rows_before); a test then takes away,
doubles or changes what the lake holds, and asks for the statement.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from billing_adapters.reconciliation import Bookings, Capture, Statement, conservation, in_flight_of
from billing_adapters.reconciliation.controls import our_controls
from metering.batch import SegmentBatch
from metering.clock import to_us
from metering.events import dead_letter_schema, segment_schema, usage_event_schema
from metering.periods import parse_period
from metering.totals import control_totals
from metering.usage import Snapshot, load_events
from tests.billing_adapters.runs import no_bookings
from tests.rated import engine, terms_of

if TYPE_CHECKING:
    from rating.terms import Terms

Row = dict[str, Any]
FEW = frozenset(
    {
        "DROPPED", "SEQUENCE_GAP", "BATCH_TOTALS", "DEAD_LETTER", "DUPLICATE_CONFLICT", "CORRECTION_UNMATCHED",
        "UNKNOWN_TENANT", "NO_SUBSCRIPTION", "UNPRICED_METER", "LATE_USAGE_REFUSED", "UNPRICED_CELL",
        "ENTITLEMENT_OVERUSE", "ROUNDING_RESIDUAL", "CONTROL_NOT_RUN",
    }
)  # fmt: skip
OCTOBER = parse_period("2026-10")
AFTER = datetime(2026, 11, 2, tzinfo=UTC)
CATALOG: Row = {
    "meters": [{"name": "tokens", "attributes": ["model"]}, {"name": "calls"}, {"name": "unsold"}],
    "plans": [
        {
            "name": "pro",
            "version": "1",
            "currency": "USD",
            "prices": [
                {"id": "seat", "type": "flat", "amount": "10.00"},
                {"id": "tokens", "type": "unit", "meter": "tokens", "unit_price": "0.0001", "where": {"model": "a"}},
                {"id": "calls", "type": "unit", "meter": "calls", "unit_price": "0.001"},
            ],
        }
    ],
    "accounts": [{"id": "payer", "name": "Payer", "tenants": ["acme", "late", "idle"]}],
    "subscriptions": [
        {"id": "sub-acme", "tenant": "acme", "plan": "pro", "version": "1", "from": "2026-01-01"},
        {"id": "sub-late", "tenant": "late", "plan": "pro", "version": "1", "from": "2026-10-10"},
    ],
}


@cache
def terms() -> Terms:
    return terms_of(CATALOG)


def event(tenant: str = "acme", meter: str = "calls", quantity: str = "1", day: int = 5, **more: Any) -> Row:
    """Return one usage event of October; give `key`, `attributes` or `month` where they matter."""
    return {
        "tenant_id": tenant,
        "meter": meter,
        "quantity": Decimal(quantity),
        "event_time": datetime(2026, more.get("month", 10), day, 12, tzinfo=UTC),
        "idempotency_key": more.get("key"),
        "attributes": more.get("attributes"),
    }


def letter(reason: str = "bad_quantity", tenant: str | None = None, quantity: str | None = None, day: int = 5) -> Row:
    """Return one row that was refused."""
    return {
        "tenant_id": tenant,
        "meter": None if tenant is None else "calls",
        "quantity": None if quantity is None else Decimal(quantity),
        "event_date": datetime(2026, 10, day, tzinfo=UTC).date(),
        "reason": reason,
        "detail": "as it was written",
        "original": b"{}",
    }


def _trailer_sha256(producer: str, number: int) -> str:
    return hashlib.sha256(f"trailer of {producer}/{number}".encode()).hexdigest()


@dataclass
class World:
    """Segments of producers, in the order they were written. The first `shipped` of each are in the lake."""

    segments: dict[str, list[SegmentBatch]] = field(default_factory=lambda: defaultdict(list))
    in_journal: list[SegmentBatch] = field(default_factory=list)

    def write(self, *rows: Row, producer: str = "producer", is_shipped: bool = True) -> SegmentBatch:
        """Add one segment; rows with a reason are dead letters."""
        before = self.segments[producer]
        flying = [batch for batch in self.in_journal if batch.producer_id == producer]
        earlier = [*before, *flying]
        number = len(earlier) + 1
        recorded_at = datetime(2026, 10, 20, 0, number % 60, tzinfo=UTC)
        origin = {"producer_id": producer, "segment": number, "recorded_at": recorded_at}
        placed = [{**row, **origin, "row": at} for at, row in enumerate(rows)]
        events = _table([row for row in placed if "reason" not in row], usage_event_schema())
        dead_letters = _table([row for row in placed if "reason" in row], dead_letter_schema())
        batch = SegmentBatch(
            producer_id=producer,
            segment=number,
            kind="batch",
            rows=len(rows),
            rows_before=sum(batch.rows for batch in earlier),
            sealed_at=to_us(recorded_at),
            sha256=hashlib.sha256(f"{producer}/{number}".encode()).hexdigest(),
            previous_sha256=_trailer_sha256(producer, number - 1) if number > 1 else None,
            events=events,
            dead_letters=dead_letters,
            totals=control_totals(events, dead_letters),
            trailer_sha256=_trailer_sha256(producer, number),
        )
        (before if is_shipped else self.in_journal).append(batch)
        return batch

    @property
    def shipped(self) -> list[SegmentBatch]:
        return [batch for producer in sorted(self.segments) for batch in self.segments[producer]]

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot.of({producer: batches[-1].segment for producer, batches in self.segments.items() if batches})

    def stored(self) -> list[Row]:
        """Return the rows of usage events that the lake should hold."""
        return [row for batch in self.shipped for row in batch.events.to_pylist()]

    def trailers(self) -> list[Row]:
        return [
            {
                **{
                    name: getattr(batch, name) for name in segment_schema().names if name not in {"totals", "sealed_at"}
                },
                "sealed_at": datetime.fromtimestamp(batch.sealed_at // 1_000_000, UTC),
                "totals": batch.totals.to_pylist(),
            }
            for batch in self.shipped
        ]

    def letters(self) -> list[Row]:
        return [row for batch in self.shipped for row in batch.dead_letters.to_pylist()]


def statement_of(
    world: World,
    *,
    stored: list[Row] | None = None,
    trailers: list[Row] | None = None,
    snapshot: Snapshot | None = None,
    bookings: Bookings | None = None,
    **asked_for: Any,
) -> Statement:
    """Return the statement of October; what the lake holds may be given in place of what it should hold.

    Whatever else `conservation` takes may be given by its name, and other `terms`. By default only the controls run that look
    at one row at a time; all of them have their worlds in test_planted_leaks.
    """
    asked = engine()
    load_events(asked, _table(world.stored() if stored is None else stored, usage_event_schema()))
    capture = Capture(
        snapshot=snapshot or world.snapshot,
        segments=_table(world.trailers() if trailers is None else trailers, segment_schema()),
        dead_letters=_table(world.letters(), dead_letter_schema()),
        in_flight=in_flight_of(world.in_journal),
    )
    if bookings is None:
        bookings = Bookings(*no_bookings(), is_complete=False)
    sold = asked_for.pop("terms", None) or terms()
    few = [control for control in our_controls() if control.control_id in FEW]
    return conservation(asked, OCTOBER, capture, sold, bookings, **{"as_of": AFTER, "controls": few, **asked_for})


def figures(statement: Statement, equation: str, meter: str | None = None) -> dict[str, tuple[int, Decimal]]:
    """Return the buckets of an equation that hold something."""
    return {
        row.bucket: (row.rows or 0, row.quantity or Decimal(0))
        for row in statement.rows
        if row.equation == equation and row.meter == meter and (row.rows or row.quantity)
    }


def found(statement: Statement) -> set[tuple[str, str | None, str | None, str, int | None]]:
    """Return the findings as (control, tenant, meter, reason, rows)."""
    return {
        (finding.control_id, finding.tenant_id, finding.meter, finding.reason, finding.rows)
        for finding in statement.findings
    }


def _table(rows: list[Row], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=schema)
