"""The columns of every file that finance receives: name, type, unit, and whether a cell may be empty.

Enters: nothing. Leaves: the declared schemas; every format of a file is written from one Arrow table of that schema.
Refuses: columns that are always empty. Source: finance files, section 1. What comes later, with the data it needs:
tax, due dates and purchase orders (invoices have no tax yet: `amount_net` is their total), base currency, provider and
delivery status, discounts, event counts per line, corrected documents.

Words: a `billing period` is the span that usage is billed in, a `service period` the part of it in which the
subscription ran, the `discovered period` of a line the period whose invoice carries it: for a correction a later one.
All ends are open. Times are UTC; the register's and the discovered periods are days of the calendar, which each plan
reads in its own time zone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa

Type = Literal["text", "integer", "date", "instant", "quantity", "unit_price", "exact_amount", "amount"]

_QUANTITY_UNIT = "units of the meter, see column unit"
_MONEY_UNIT = "see column currency"
_UNITS: dict[str, str] = {
    "instant": "UTC",
    "quantity": _QUANTITY_UNIT,
    "unit_price": _MONEY_UNIT,
    "exact_amount": _MONEY_UNIT,
    "amount": _MONEY_UNIT,
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column: `type` decides how it is stored (Parquet) and written (CSV, JSON lines)."""

    name: str
    type: Type
    nullable: bool = False

    @property
    def unit(self) -> str | None:
        return _UNITS.get(self.type)


@dataclass(frozen=True, slots=True)
class FileShape:
    """One file: its grain in words, its columns, the key that orders and identifies its rows, and its control totals.

    A control total is the sum of one column per value of another, e.g. `amount` per `currency`.
    """

    name: str
    grain: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    control_totals: tuple[tuple[str, str], ...]


_LINE_TERMS = (
    Column("account_id", "text"),
    Column("tenant_id", "text"),
    Column("subscription_id", "text"),
    Column("plan", "text"),
    Column("plan_version", "integer"),
    Column("price_id", "text"),
    Column("price_type", "text"),
    Column("meter", "text", nullable=True),
    Column("unit", "text", nullable=True),
    Column("attributes", "text", nullable=True),
)
_PERIODS = (
    Column("billing_period_start", "instant"),
    Column("billing_period_end", "instant"),
    Column("service_period_start", "instant"),
    Column("service_period_end", "instant"),
)

INVOICE_REGISTER = FileShape(
    name="invoice_register",
    grain="one row per invoice; a draft is a pro forma and has no number",
    columns=(
        Column("run_id", "text"),
        Column("series", "text", nullable=True),
        Column("number", "text", nullable=True),
        Column("document_type", "text"),
        Column("invoice_id", "text"),
        Column("status", "text"),
        Column("issue_date", "date"),
        Column("issued_at", "instant"),
        Column("billing_period_start", "date"),
        Column("billing_period_end", "date"),
        Column("account_id", "text"),
        Column("account_name", "text", nullable=True),
        Column("currency", "text"),
        Column("amount_net", "amount"),
        Column("lines", "integer"),
        Column("plan_versions", "text"),
        Column("close_id", "text"),
        Column("snapshot_id", "text"),
        Column("catalog_revision", "integer"),
        Column("content_hash", "text"),
    ),
    key=("number", "account_id", "currency", "invoice_id"),
    control_totals=(("amount_net", "currency"),),
)
INVOICE_LINES = FileShape(
    name="invoice_lines",
    grain="one row per invoice line",
    columns=(
        Column("run_id", "text"),
        Column("invoice_id", "text"),
        Column("number", "text", nullable=True),
        Column("position", "integer"),
        Column("line_id", "text"),
        Column("kind", "text"),
        *_LINE_TERMS,
        Column("description", "text", nullable=True),
        Column("quantity", "quantity"),
        Column("exact_amount", "exact_amount"),
        Column("amount", "amount"),
        Column("currency", "text"),
        Column("cumulative_quantity", "quantity"),
        Column("cumulative_exact_amount", "exact_amount"),
        Column("cumulative_amount", "amount"),
        *_PERIODS,
        Column("discovered_period_start", "date"),
        Column("discovered_period_end", "date"),
    ),
    key=("number", "invoice_id", "position"),
    control_totals=(("quantity", "meter"), ("amount", "currency"), ("exact_amount", "currency")),
)
CHARGES = FileShape(
    name="charges",
    grain="one row per component of an invoice line: the part of it in one tier at one unit price, or a flat amount",
    columns=(
        Column("run_id", "text"),
        Column("invoice_id", "text"),
        Column("line_id", "text"),
        Column("position", "integer"),
        Column("tenant_id", "text"),
        Column("price_id", "text"),
        Column("meter", "text", nullable=True),
        # The matrix cell, unit price of the event, or time bucket; empty for a price that has but one.
        Column("cell", "text", nullable=True),
        Column("tier", "integer"),
        Column("part", "text"),
        # Packages for a package price, 1 for a flat amount: so there is no control total of it per meter.
        Column("quantity", "quantity"),
        Column("unit_price", "unit_price"),
        Column("exact_amount", "exact_amount"),
        Column("currency", "text"),
    ),
    key=("invoice_id", "line_id", "position"),
    control_totals=(("exact_amount", "currency"),),
)
USAGE = FileShape(
    name="usage",
    grain="one row per tenant, meter, subscription, billing period, price and group",
    columns=(
        Column("run_id", "text"),
        Column("tenant_id", "text"),
        Column("meter", "text"),
        Column("unit", "text"),
        Column("account_id", "text"),
        Column("subscription_id", "text"),
        Column("plan", "text"),
        Column("plan_version", "integer"),
        Column("price_id", "text"),
        Column("attributes", "text", nullable=True),
        *_PERIODS,
        Column("event_count", "integer"),
        Column("quantity", "quantity"),
    ),
    key=("tenant_id", "meter", "subscription_id", "billing_period_start", "price_id", "attributes"),
    control_totals=(("quantity", "meter"),),
)
SHAPES = (INVOICE_REGISTER, INVOICE_LINES, CHARGES, USAGE)


@cache
def arrow_schema(shape: FileShape) -> pa.Schema:
    """Return the Arrow schema of a file. Amounts have four places, the most that a currency of ISO 4217 has."""
    import pyarrow as pa

    types = {
        "text": pa.string(),
        "integer": pa.int64(),
        "date": pa.date32(),
        "instant": pa.timestamp("us", tz="UTC"),
        "quantity": pa.decimal128(38, 9),
        "unit_price": pa.decimal128(24, 12),
        "exact_amount": pa.decimal128(38, 21),
        "amount": pa.decimal128(38, 4),
    }
    return pa.schema([pa.field(column.name, types[column.type], nullable=column.nullable) for column in shape.columns])
