"""Step 8, invoice: from worth minus booked to documents.

Enters: the tables `invoice_line` and `line_charge` of one close. Leaves: invoices, one per billing account and currency,
with what prepaid balances pay of them, each with a canonical document whose sha256 is its content hash.
Refuses: to number anything or to write anywhere; that is the ledger's. The same close gives the same bytes, always.

Amounts have the minor digits of their currency; exact amounts and quantities every digit that counts. Times are UTC,
ends are open.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from metering.clock import iso_utc
from metering.engine import fetch
from metering.numbers import plain, trimmed
from rating.balances import Burn, amount_due, burn
from rating.iso4217 import minor_units
from rating.rate import overflow_named
from rating.rounding import exact_sum, round_amount

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from decimal import Decimal

    import duckdb

    from rating.balances import Balance, Burned
    from rating.close import Close
    from rating.terms import Terms


@dataclass(frozen=True, slots=True)
class Charge:
    """One component of a line: a quantity in a tier at a unit price (`unit`), or a fixed amount (`flat`).

    `cell_key` names the cell of a price that has several: a matrix cell, a unit price of the event, a time bucket.
    """

    cell_key: str
    tier: int
    part: str
    quantity: Decimal
    unit_price: Decimal
    exact_amount: Decimal


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """What one (subscription, billing period, price, group) adds to an invoice.

    `quantity`, `exact_amount` and `amount` are what this invoice books, worth minus booked; the cumulative ones are what
    the billing period is worth, all invoices together. `amount` = round(cumulative) minus the amounts booked before.
    """

    line_id: str
    position: int
    kind: str
    tenant_id: str
    subscription_id: str
    plan: str
    plan_version: int
    price_id: str
    price_type: str
    meter: str | None
    unit: str | None
    group_key: str
    description: str
    currency: str
    period_start: datetime
    period_end: datetime
    service_start: datetime
    service_end: datetime
    quantity: Decimal
    exact_amount: Decimal
    amount: Decimal
    cumulative_quantity: Decimal
    cumulative_exact_amount: Decimal
    cumulative_amount: Decimal
    charges: tuple[Charge, ...]


@dataclass(frozen=True, slots=True)
class Invoice:
    """One invoice: lines of one billing account in one currency. `number` is None until it is final.

    `amount_due` is the total minus what prepaid balances paid (`prepaid`).
    """

    invoice_id: str
    close_id: str
    account_id: str
    currency: str
    document_type: str
    status: str
    number: str | None
    period_start: datetime
    period_end: datetime
    issued_at: datetime
    snapshot_id: str
    catalog_revision: int
    total: Decimal
    amount_due: Decimal
    lines: tuple[InvoiceLine, ...]
    prepaid: tuple[Burn, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepaid:
    """By account: its prepaid balances, and what earlier invoices burned of them, oldest first."""

    balances: Mapping[str, Sequence[Balance]] = field(default_factory=dict)
    burned: Mapping[str, Sequence[Burned]] = field(default_factory=dict)
    # By plan key, where lines of the plan burn otherwise than by priority.
    orders: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, terms: Terms, burned: Mapping[str, Sequence[Burned]]) -> Prepaid:
        """Return the balances of a catalog, burned in the order in which its plans read them."""
        read = {key: plan.reading["burn_order"] for key, plan in terms.plans.items() if plan.reading.different}
        return cls(
            terms.balances_by_account(), burned, {key: value for key, value in read.items() if value != "priority"}
        )


LINE_COLUMNS = tuple(name for name in InvoiceLine.__slots__ if name != "charges")
_TRIMMED = frozenset({"quantity", "exact_amount", "unit_price", "cumulative_quantity", "cumulative_exact_amount"})
_ROUNDED = frozenset({"amount", "cumulative_amount", "total", "amount_due"})
# What an invoice does not use is not in its document, so that a document stays what it was when a release adds a field.
_UNUSED: dict[str, object] = {"cell_key": "", "document_type": "invoice"}


def make_invoices(
    engine: duckdb.DuckDBPyConnection, close: Close, status: str, prepaid: Prepaid | None = None
) -> list[Invoice]:
    """Return the invoices of a close in the order of their numbers: by account, then currency."""
    charges: dict[int, list[Charge]] = {}
    for line_number, *charge in _rows(
        engine,
        "SELECT line_number, cell_key, tier, part, quantity, unit_price, exact_amount FROM line_charge"
        " ORDER BY line_number, position",
    ):
        charges.setdefault(line_number, []).append(Charge(*charge))
    columns = ", ".join(LINE_COLUMNS)
    rows = _rows(
        engine,
        f"SELECT invoice_id, account_id, line_number, {columns} FROM invoice_line ORDER BY account_id, currency, position",
    )
    lines: dict[tuple[str, str, str], list[InvoiceLine]] = {}
    for invoice_id, account_id, line_number, *values in rows:
        fields = dict(zip(LINE_COLUMNS, values, strict=True))
        digits = minor_units(fields["currency"])
        for name in ("amount", "cumulative_amount"):
            fields[name] = round_amount(fields[name], digits)
        line = InvoiceLine(**fields, charges=tuple(charges.get(line_number, ())))
        lines.setdefault((invoice_id, account_id, line.currency), []).append(line)
    return [_invoice(close, status, key, members, prepaid or Prepaid()) for key, members in lines.items()]


def document(invoice: Invoice) -> bytes:
    """Return the canonical document of an invoice: JSON, keys sorted, numbers as text, without number and status.

    This is what `verify` compares byte for byte and what `content_hash` is the sha256 of.
    """
    body = as_json(invoice)
    for name in ("number", "status"):
        del body[name]
    if not invoice.prepaid:
        del body["amount_due"]
    return orjson.dumps(body, option=orjson.OPT_SORT_KEYS)


def content_hash(invoice: Invoice) -> str:
    """Return the sha256 of the canonical document, as hex."""
    return hashlib.sha256(document(invoice)).hexdigest()


def as_json(invoice: Invoice) -> dict[str, Any]:
    """Return an invoice as plain JSON values: numbers as text, times as ISO 8601 UTC."""
    body = _plain_fields(invoice)
    body["lines"] = [line_as_json(line) for line in invoice.lines]
    if invoice.prepaid:
        body["prepaid"] = [_plain_fields(burned) for burned in invoice.prepaid]
    return body


def line_as_json(line: InvoiceLine) -> dict[str, Any]:
    """Return an invoice line as plain JSON values, with its charges; `attributes` are its group, taken apart."""
    body = _plain_fields(line)
    body["attributes"] = orjson.loads(line.group_key) if line.group_key else {}
    body["charges"] = [_plain_fields(charge) for charge in line.charges]
    return body


def _invoice(
    close: Close, status: str, key: tuple[str, str, str], lines: Sequence[InvoiceLine], prepaid: Prepaid
) -> Invoice:
    invoice_id, account_id, currency = key
    total = exact_sum([line.amount for line in lines])
    burns = burn(lines, prepaid.balances.get(account_id, ()), prepaid.burned.get(account_id, ()), prepaid.orders)
    return Invoice(
        invoice_id=invoice_id,
        close_id=close.close_id,
        account_id=account_id,
        currency=currency,
        document_type=_document_type(close, total),
        status=status,
        number=None,
        period_start=close.period_start,
        period_end=close.period_end,
        issued_at=close.as_of,
        snapshot_id=close.snapshot.snapshot_id,
        catalog_revision=close.catalog_revision,
        total=total,
        amount_due=amount_due(total, burns),
        lines=tuple(lines),
        prepaid=tuple(burns),
    )


def _document_type(close: Close, total: Decimal) -> str:
    if close.kind != "corrections":
        return "invoice"
    return "credit_note" if total < 0 else "supplementary_invoice"


def _plain_fields(row: Invoice | InvoiceLine | Charge | Burn) -> dict[str, Any]:
    body: dict[str, Any] = {}
    for name in row.__slots__:
        value = getattr(row, name)
        if name in _TRIMMED:
            value = trimmed(value)
        elif name in _ROUNDED:
            value = plain(value)
        elif hasattr(value, "astimezone"):
            value = iso_utc(value)
        if name not in {"lines", "charges", "prepaid"} and _UNUSED.get(name, body) != value:
            body[name] = value
    return body


def _rows(engine: duckdb.DuckDBPyConnection, statement: str) -> list[tuple[Any, ...]]:
    with overflow_named(engine):
        table = fetch(engine, statement)
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))
