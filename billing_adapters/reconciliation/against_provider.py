"""Documents from paper to payment: what was invoiced, delivered, held by a provider and collected, per currency.

Enters: the final documents of a period (`BookedDocuments`), what was sent of them (SENT_DOCUMENTS), and a provider's list.
Leaves: the rows of four equations, and in the engine `document_match`, one row per document with what differs. Refuses: to ask
a provider; the list was read before, and is kept as evidence.

Each equation takes its left side from another place than its right one: charges against documents, documents against the outbox,
the outbox against the provider's list, that list against its payments. A provider whose list was not read has no third and fourth
equation: nothing is proven of it, and nothing is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from billing_adapters.provider_list import DOCUMENTS, PAYMENTS, provider_schema
from billing_adapters.reconciliation.matching import EXACT, Tolerance, match
from billing_adapters.reconciliation.statement import collection_rows
from billing_adapters.sent_list import sent_documents_schema
from metering.engine import fetch, read_sql
from metering.questions import register

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import duckdb
    import pyarrow as pa

    from billing_adapters.provider_list import ProviderList
    from billing_adapters.reconciliation.matching import StatusCount
    from billing_adapters.reconciliation.statement import ConservationRow
    from rating.invoice import Invoice

_PACKAGE = "billing_adapters.reconciliation"
_FOR_EVER = datetime(9999, 12, 31, tzinfo=UTC)


@cache
def booked_document_schemas() -> dict[str, pa.Schema]:
    """Return the schemas of `BookedDocuments`, by the name of its table in the engine. Amounts are in `currency`."""
    import pyarrow as pa

    text, exact = pa.string(), pa.decimal128(38, 21)
    return {
        "booked_document": pa.schema(
            [
                *(pa.field(name, text, nullable=False) for name in ("invoice_id", "account_id", "currency", "status")),
                pa.field("amount_due", exact, nullable=False),
            ]
        ),
        "document_line": pa.schema(
            [
                pa.field("invoice_id", text, nullable=False),
                pa.field("exact_amount", exact, nullable=False),
                pa.field("amount", exact, nullable=False),
            ]
        ),
        "document_charge": pa.schema(
            [pa.field("invoice_id", text, nullable=False), pa.field("exact_amount", exact, nullable=False)]
        ),
        "document_burn": pa.schema(
            [pa.field("invoice_id", text, nullable=False), pa.field("amount", exact, nullable=False)]
        ),
    }


@dataclass(frozen=True, slots=True)
class BookedDocuments:
    """The final and void documents of a period: their heads, and by document the lines, the charges and what was prepaid."""

    documents: pa.Table
    lines: pa.Table
    charges: pa.Table
    burns: pa.Table


@dataclass(frozen=True, slots=True)
class Delivered:
    """What one adapter had to deliver: SENT_DOCUMENTS, and the provider's list, None where it was not read.

    `settled_before`: what is as young or younger on either side is timing where it differs; None: all of it is settled.
    """

    adapter: str
    sent: pa.Table
    held: ProviderList | None = None
    settled_before: datetime | None = None
    tolerances: Mapping[str, Tolerance] | None = None
    otherwise: Tolerance = EXACT


def load_documents(engine: duckdb.DuckDBPyConnection, booked: BookedDocuments) -> None:
    """Make the tables of the documents of a period."""
    tables = (booked.documents, booked.lines, booked.charges, booked.burns)
    for (name, schema), table in zip(booked_document_schemas().items(), tables, strict=True):
        register(engine, name, table.cast(schema))


def net_of_documents(engine: duckdb.DuckDBPyConnection) -> list[ConservationRow]:
    """Return the equation of what is on paper, after `load_documents`."""
    return collection_rows("net", _summed(engine, "net_of_documents", {}))


def deliveries_of(
    engine: duckdb.DuckDBPyConnection, delivered: Delivered, start: datetime, end: datetime
) -> tuple[list[ConservationRow], list[StatusCount]]:
    """Return the equations of one adapter and the counts of matching, after `load_documents`. `[start, end)` in UTC.

    What only the provider has belongs to the period in which it was made there.
    """
    register(engine, "sent_document", delivered.sent.cast(sent_documents_schema()))
    named = {"adapter": delivered.adapter}
    rows = collection_rows("invoiced", _summed(engine, "invoiced_delivered", named), delivered.adapter)
    if delivered.held is None or DOCUMENTS not in delivered.held.tables:
        return rows, []
    for name, table in ((DOCUMENTS, "provider_document"), (PAYMENTS, "provider_payment")):
        register(engine, table, delivered.held.table(name).cast(provider_schema(name)))
    counts = match_documents(engine, delivered)
    values = {"start_instant": start, "end_instant": end}
    engine.execute(read_sql(_PACKAGE, "document_held"), values)
    engine.execute(read_sql(_PACKAGE, "document_match"))
    rows += collection_rows("confirmed", _summed(engine, "confirmed_held", named), delivered.adapter)
    if PAYMENTS in delivered.held.tables:
        rows += collection_rows("provider", _summed(engine, "held_collected", named), delivered.adapter)
    return rows, counts


def match_documents(engine: duckdb.DuckDBPyConnection, delivered: Delivered) -> list[StatusCount]:
    """Match what a provider confirmed with what it has; `sent_document` and `provider_document` are in the engine."""
    ours = fetch(engine, read_sql(_PACKAGE, "match_our_document"))
    theirs = fetch(engine, read_sql(_PACKAGE, "match_their_document"), {"for_ever": _FOR_EVER})
    return match(
        engine,
        ours,
        theirs,
        settled_before=delivered.settled_before,
        tolerances=delivered.tolerances,
        otherwise=delivered.otherwise,
    )


def _summed(engine: duckdb.DuckDBPyConnection, name: str, values: dict[str, Any]) -> list[tuple[str, str, Any]]:
    found = fetch(engine, read_sql(_PACKAGE, name), values)
    return [(row["currency"], row["bucket"], row["amount"]) for row in found.to_pylist()]


def documents_of(invoices: Iterable[Invoice]) -> BookedDocuments:
    """Return the documents of a period from the books' own rows; drafts, which nobody owes, are left out."""
    heads: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    charges: list[dict[str, Any]] = []
    burns: list[dict[str, Any]] = []
    for one in invoices:
        if one.status == "draft":
            continue
        named = {"invoice_id": one.invoice_id}
        head = {name: getattr(one, name) for name in ("account_id", "currency", "status", "amount_due")}
        heads.append({**named, **head})
        for line in one.lines:
            lines.append({**named, "exact_amount": line.exact_amount, "amount": line.amount})
            charges += [{**named, "exact_amount": charge.exact_amount} for charge in line.charges]
        burns += [{**named, "amount": burn.amount} for burn in one.prepaid]
    schemas = booked_document_schemas().values()
    tables = [_table(rows, schema) for rows, schema in zip((heads, lines, charges, burns), schemas, strict=True)]
    return BookedDocuments(*tables)


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist(rows, schema=schema)
