"""Why a line says what it says: down to the tiers, the usage and the events behind it.

Enters: a line id. Leaves: an Explanation, recomputed from the snapshot that the invoice pins.
Refuses: to explain from anything but that snapshot; what arrived later belongs to a later invoice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metering.clock import iso_utc
from metering.engine import fetch, read_sql
from metering.numbers import plain, trimmed
from metering.usage import register
from rating.close import Close, read_closes
from rating.errors import NotFound
from rating.invoice import Charge, Invoice, InvoiceLine, line_as_json
from rating.ledger import invoice_of_line
from rating.run import rated

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from decimal import Decimal

    import duckdb
    from sqlalchemy import Connection

    from rating.terms import Terms

SAMPLE_EVENTS = 10


@dataclass(frozen=True, slots=True)
class OriginEvent:
    """One usage event behind a line, with where it came from. `is_new`: the close before had not seen it."""

    event_time: datetime
    recorded_at: datetime
    quantity: Decimal
    attributes: str | None
    idempotency_key: str | None
    producer_id: str
    segment: int
    row: int
    is_new: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """One line, taken apart. `tiers` are what the whole period is worth, `line.charges` what this invoice books of it."""

    invoice: Invoice
    line: InvoiceLine
    tiers: tuple[Charge, ...]
    booked_before: Decimal
    event_count: int
    new_event_count: int
    events: tuple[OriginEvent, ...]

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values: numbers as text, times as ISO 8601 UTC."""
        line = line_as_json(self.line)
        return {
            "line": line,
            "invoice_id": self.invoice.invoice_id,
            "number": self.invoice.number,
            "account_id": self.invoice.account_id,
            "snapshot_id": self.invoice.snapshot_id,
            "catalog_revision": self.invoice.catalog_revision,
            "booked_before": plain(self.booked_before),
            "tiers": [
                {
                    "tier": charge.tier,
                    "part": charge.part,
                    "quantity": trimmed(charge.quantity),
                    "unit_price": trimmed(charge.unit_price),
                    "exact_amount": trimmed(charge.exact_amount),
                }
                for charge in self.tiers
            ],
            "event_count": self.event_count,
            "new_event_count": self.new_event_count,
            "events": [
                {
                    "event_time": iso_utc(event.event_time),
                    "recorded_at": iso_utc(event.recorded_at),
                    "quantity": trimmed(event.quantity),
                    "attributes": event.attributes,
                    "idempotency_key": event.idempotency_key,
                    "producer_id": event.producer_id,
                    "segment": event.segment,
                    "row": event.row,
                    "is_new": event.is_new,
                }
                for event in self.events
            ],
        }


def explain_line(connection: Connection, line_id: str, close: Close, terms: Terms, files: Sequence[str]) -> Explanation:
    """Return why a line says what it says. `close` is the one its invoice names, `terms` those of its revision."""
    invoice, line = invoice_of_line(connection, line_id)
    with rated(connection, close, terms, files) as engine:
        span_id = _span_of(engine, line)
        tiers = engine.execute(
            "SELECT tier, part, quantity, unit_price, exact_amount FROM charge"
            " WHERE span_id = $span_id AND price_id = $price_id AND group_key = $group_key ORDER BY tier, part DESC",
            {"span_id": span_id, "price_id": line.price_id, "group_key": line.group_key},
        ).fetchall()
        event_count, new_event_count, events = _events_of(connection, engine, close, line, span_id)
    return Explanation(
        invoice=invoice,
        line=line,
        tiers=tuple(Charge(*tier) for tier in tiers),
        booked_before=line.cumulative_amount - line.amount,
        event_count=event_count,
        new_event_count=new_event_count,
        events=events,
    )


def close_of_line(connection: Connection, line_id: str) -> Close:
    """Return the close that the invoice of a line came from. Raises NotFound."""
    invoice, _ = invoice_of_line(connection, line_id)
    found = read_closes(connection, close_id=invoice.close_id)
    if not found:
        raise NotFound(f"close {invoice.close_id} of line {line_id} is not in the books", line_id=line_id)
    return found[0]


def _span_of(engine: duckdb.DuckDBPyConnection, line: InvoiceLine) -> int:
    row = engine.execute(
        "SELECT span_id FROM billing_span WHERE subscription_id = $subscription_id AND period_start = $period_start",
        {"subscription_id": line.subscription_id, "period_start": line.period_start},
    ).fetchone()
    # A line of a billing period that the terms no longer know was reversed; no span, and so no usage, stands behind it.
    return -1 if row is None else int(row[0])


def _events_of(
    connection: Connection, engine: duckdb.DuckDBPyConnection, close: Close, line: InvoiceLine, span_id: int
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
    }
    rows = fetch(engine, read_sql("rating", "explain_event"), question).to_pylist()
    events = tuple(OriginEvent(**{name: row[name] for name in OriginEvent.__slots__}) for row in rows)
    return (rows[0]["event_count"], rows[0]["new_event_count"], events) if rows else (0, 0, ())
