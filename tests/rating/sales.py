"""A small company for the tests of rating: terms from plain dicts, events in memory, books in SQLite in memory."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import StaticPool

import rating.books  # noqa: F401 - adds its tables to the metadata
from metering.books import metadata
from metering.catalog import Meter
from metering.events import usage_event_schema
from metering.periods import parse_period
from metering.usage import Snapshot, load_events
from rating.close import Close, draft_close, insert_close, read_closes
from rating.invoice import Invoice, make_invoices
from rating.ledger import book_invoices, booked_before, keep_drafts
from rating.plans import Account, Plan, Subscription
from rating.rate import rate, subtract_booked
from rating.run import spans_of
from rating.terms import Terms


def at(text: str) -> datetime:
    """Return an instant from `2026-10-05` or `2026-10-05T12:00`."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@dataclass
class Company:
    """Meters, one plan, one tenant; `use` events, `invoice` periods, read the lines."""

    prices: list[dict[str, Any]]
    meters: list[dict[str, Any]] = field(default_factory=lambda: [{"name": "calls"}])
    currency: str = "USD"
    billing_period: dict[str, Any] = field(default_factory=dict)
    subscription: dict[str, Any] = field(default_factory=dict)
    account: dict[str, Any] = field(default_factory=dict)
    around: dict[str, Any] = field(default_factory=dict)
    more_plans: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    segments: int = 0

    def __post_init__(self) -> None:
        self.books: Engine = create_engine("sqlite://", poolclass=StaticPool)
        metadata.create_all(self.books)
        # From Python 3.13 on, a connection to SQLite that nobody closed is a warning, and warnings are errors.
        weakref.finalize(self, self.books.dispose)

    @property
    def terms(self) -> Terms:
        first = {"name": "pro", "version": 1, "prices": self.prices, **self.around}
        plans = [
            Plan.model_validate({"currency": self.currency, "billing_period": self.billing_period, **plan})
            for plan in (first, *self.more_plans)
        ]
        held = {"id": "sub", "tenant": "acme", "plan": "pro", "version": 1, "from": "2026-01-01", **self.subscription}
        payer = {"id": "acme-inc", "name": "Acme, Inc.", "tenants": ["acme"], **self.account}
        account = Account.model_validate(payer)
        meters = [Meter.model_validate(meter) for meter in self.meters]
        return Terms.of(meters, plans, [account], [Subscription.model_validate(held)])

    def use(
        self, when: str, quantity: str = "1", *, meter: str = "calls", key: str | None = None, **attributes: str
    ) -> None:
        """Record one event; each gets a segment of its own, so that any cut can be taken."""
        from metering.events import encode_attributes

        self.segments += 1
        instant = at(when)
        self.events.append(
            {
                "tenant_id": "acme",
                "meter": meter,
                "quantity": Decimal(quantity),
                "event_time": instant,
                "recorded_at": instant,
                "producer_id": "p",
                "segment": self.segments,
                "row": 0,
                "idempotency_key": key,
                "attributes": encode_attributes(attributes),
            }
        )

    def invoice(self, period: str, *, now: str | None = None, is_draft: bool = False) -> list[Invoice]:
        """Close a period as of `now` (its end by default), over all events so far; book it unless it is a draft."""
        wall = parse_period(period)
        as_of = at(now) if now else wall.end.replace(tzinfo=UTC)
        pinned = {"snapshot": Snapshot.of({"p": self.segments} if self.segments else {}), "catalog_revision": 1}
        with self.books.begin() as connection:
            if is_draft:
                close = draft_close(connection, wall, as_of=as_of, **pinned)
            else:
                done = [close for close in read_closes(connection, wall=wall) if not close.is_draft]
                is_complete = as_of >= wall.end.replace(tzinfo=UTC)
                close = insert_close(connection, wall, len(done) + 1, as_of=as_of, is_complete=is_complete, **pinned)
        made = self.compute(close)
        with self.books.begin() as connection:
            if not is_draft:
                return book_invoices(connection, close, made, self.terms)
            keep_drafts(connection, close, made)
            return made

    def compute(self, close: Close) -> list[Invoice]:
        """Return the invoices of a close, from the events of its cut."""
        from metering.engine import open_engine

        known = dict(close.snapshot.cut).get("p", 0)
        events = [event for event in self.events if event["segment"] <= known]
        engine = open_engine(threads=1)
        try:
            load_events(engine, pa.Table.from_pylist(events, schema=usage_event_schema()))
            with self.books.connect() as connection:
                spans = spans_of(connection, close, self.terms)
                booked = booked_before(connection, close.position, at("2000-01-01"))
            rate(engine, self.terms, spans, close.as_of)
            subtract_booked(engine, *booked, close.close_id)
            return make_invoices(engine, close, "draft" if close.is_draft else "final")
        finally:
            engine.close()


def amounts(invoices: list[Invoice]) -> dict[str, str]:
    """Return the amount of each line by price (and group), as on paper."""
    return {
        line.price_id + (f" {line.group_key}" if line.group_key else ""): str(line.amount)
        for invoice in invoices
        for line in invoice.lines
    }
