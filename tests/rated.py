"""The public engine, asked in the words of the oracle: plain catalogs and events in, lines and components out.

Nothing is computed here. Events become the Arrow table of usage events, catalogs the models of the packages, and what
the engine's tables hold comes back as tuples, so that the same question can be put to the engine and to the oracle.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from metering.catalog import Meter
from metering.corrections import Origin, correction_text
from metering.engine import open_engine
from metering.events import encode_attributes, usage_event_schema
from metering.periods import parse_period
from metering.usage import load_events
from rating.grants import TenantGrant
from rating.plans import Account, Plan, Subscription
from rating.rate import BOOKED_LINE_COLUMNS, LINE_KEY, rate, subtract_booked
from rating.terms import Terms, billing_spans
from tests.oracle import Group, Line, LineKey

if TYPE_CHECKING:
    import duckdb

Row = dict[str, Any]
# Late enough that everything is due.
AFTER_ALL = datetime(2199, 1, 1, tzinfo=UTC)


class Component(NamedTuple):
    """One component of a line to book: a quantity in a tier at a unit price, or a flat amount."""

    cell_key: str
    tier: int
    part: str
    unit_price: Decimal
    quantity: Decimal
    exact_amount: Decimal


@cache
def engine() -> duckdb.DuckDBPyConnection:
    """Return one engine for all questions; every question replaces the tables of the one before."""
    return open_engine(threads=1)


def terms_of(catalog: Row) -> Terms:
    return Terms.of(
        [Meter.model_validate(row) for row in catalog["meters"]],
        [Plan.model_validate(row) for row in catalog["plans"]],
        [Account.model_validate(row) for row in catalog["accounts"]],
        [Subscription.model_validate(row) for row in catalog["subscriptions"]],
        grants=[TenantGrant.model_validate(row) for row in catalog.get("grants", [])],
    )


def events_table(events: list[Row]) -> pa.Table:
    """Return usage events as the table that the lake holds, attributes as canonical JSON."""
    written = [
        {
            **event,
            "quantity": Decimal(event["quantity"]),
            "attributes": encode_attributes(event["attributes"]),
            "correction": correction_of(event.get("correction")),
        }
        for event in events
    ]
    return pa.Table.from_pylist(written, schema=usage_event_schema())


def correction_of(said: Row | None) -> str | None:
    """Return the text of a correction: a verb, and the key of the event or its origin."""
    if said is None:
        return None
    named = {name: value for name, value in said.items() if name not in {"verb", "key"}}
    return correction_text(said["verb"], key=said.get("key"), origin=Origin(**named) if named else None)


def engine_lines(catalog: Row, events: list[Row], month: str, as_of: datetime = AFTER_ALL) -> dict[LineKey, Line]:
    """Return what every line of the billing periods that end in the month is worth, keyed like the oracle's."""
    _rate(catalog, events, month, as_of)
    return {
        _key(row, catalog): Line(row["quantity"], row["exact_amount"], row["amount"])
        for row in _rows(
            "SELECT subscription_id, service_start, price_id, group_key, quantity, exact_amount, amount FROM worth"
        )
    }


def _rate(catalog: Row, events: list[Row], month: str, as_of: datetime) -> None:
    terms = terms_of(catalog)
    load_events(engine(), events_table(events))
    rate(engine(), terms, billing_spans(terms, parse_period(month)), as_of)


def _key(row: Row, catalog: Row) -> LineKey:
    prices = [price for plan in catalog["plans"] for price in plan["prices"] if price["id"] == row["price_id"]]
    # What is not of a price, such as the true-up of a minimum, has no groups.
    by = (prices[0].get("by") or []) if prices else []
    return row["subscription_id"], row["service_start"].astimezone(UTC), row["price_id"], group_of(row["group_key"], by)


def group_of(group_key: str, by: list[str]) -> Group:
    """Return the values of a group key in the order in which the price names its attributes."""
    return tuple(json.loads(group_key)[name] for name in by) if group_key else ()


def _table(statement: str) -> pa.Table:
    return engine().sql(statement).to_arrow_table()


def _rows(statement: str) -> list[Row]:
    return _table(statement).to_pylist()


class Booked:
    """What was booked so far, as the engine wants to be told: one row per booking of a line and of a component."""

    def __init__(self) -> None:
        self._lines: list[pa.Table] = []
        self._charges: list[pa.Table] = []

    def copy(self) -> Booked:
        """Return the same bookings, to be gone on from in another way."""
        other = Booked()
        other._lines, other._charges = list(self._lines), list(self._charges)
        return other

    def book(
        self, catalog: Row, events: list[Row], month: str, as_of: datetime = AFTER_ALL
    ) -> dict[LineKey, tuple[Line, list[Component]]]:
        """Rate what is known, subtract what is booked, book the difference, and return it."""
        _rate(catalog, events, month, as_of)
        lines, keys = ", ".join(BOOKED_LINE_COLUMNS), ", ".join(LINE_KEY)
        parts = "cell_key, tier, part, charge.unit_price, charge.quantity, charge.exact_amount"
        number = len(self._lines)
        if not self._lines:
            self._lines.append(_table(f"SELECT {lines}, 0::BIGINT AS booking FROM worth LIMIT 0"))
            self._charges.append(
                _table(f"SELECT {keys}, {parts} FROM charge JOIN billing_span USING (span_id) LIMIT 0")
            )
        subtract_booked(engine(), pa.concat_tables(self._lines), pa.concat_tables(self._charges), f"close-{number}")
        self._lines.append(_table(f"SELECT {lines}, {number}::BIGINT AS booking FROM invoice_line"))
        self._charges.append(
            _table(f"SELECT {keys}, {parts} FROM line_charge AS charge JOIN invoice_line USING (line_id)")
        )
        components: dict[str, list[Component]] = {}
        for row in _rows("SELECT * FROM line_charge ORDER BY line_id, position"):
            components.setdefault(row["line_id"], []).append(Component(*(row[name] for name in Component._fields)))
        return {
            _key(row, catalog): (
                Line(row["quantity"], row["exact_amount"], row["amount"]),
                components.get(row["line_id"], []),
            )
            for row in _rows("SELECT * FROM invoice_line ORDER BY position")
        }
