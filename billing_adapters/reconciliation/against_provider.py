"""Documents from paper to payment: what was invoiced, delivered, held by a provider and collected, per currency.

Enters: an engine with the documents of a period, what was sent of them, and the lists of providers (`reconciliation.inputs`).
Leaves: the rows of four equations, and in the engine `document_match` and `quantity_match`, one row per document or window with
what differs. Refuses: to ask a provider; the list was read before, and is kept as evidence.

Each equation takes its left side from another place than its right one: charges against documents, documents against the outbox,
the outbox against the provider's list, that list against its payments. A provider whose list was not read has no third and fourth
equation: nothing is proven of it, and nothing is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from billing_adapters.provider_list import DOCUMENTS, PAYMENTS, QUANTITIES
from billing_adapters.reconciliation.inputs import DOCUMENT_INPUTS, schema_of
from billing_adapters.reconciliation.matching import EXACT, Tolerance, match
from billing_adapters.reconciliation.statement import collection_rows
from metering.engine import fetch, read_sql
from metering.numbers import exact_difference
from metering.questions import register

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import duckdb
    import pyarrow as pa

    from billing_adapters.reconciliation.statement import ConservationRow
    from rating.invoice import Invoice
    from rating.tax import TaxedInvoice

_PACKAGE = "billing_adapters.reconciliation"
_FOR_EVER = datetime(9999, 12, 31, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Compared:
    """How one adapter is compared with its provider.

    `tables`: what was read of the provider's list, none where it was not. `settled_before`: what is as young or younger on
    either side is timing where it differs; None: all of it is settled. `tolerances` by currency, `otherwise` for all others.
    """

    adapter: str
    tables: frozenset[str] = frozenset()
    settled_before: datetime | None = None
    tolerances: Mapping[str, Tolerance] | None = None
    otherwise: Tolerance = EXACT


def net_of_documents(engine: duckdb.DuckDBPyConnection) -> list[ConservationRow]:
    """Return the equation of what is on paper."""
    return collection_rows("net", _summed(engine, "net_of_documents", {}))


def compare(
    engine: duckdb.DuckDBPyConnection, compared: Sequence[Compared], start: datetime, end: datetime
) -> list[ConservationRow]:
    """Return the equations of every adapter; leave `document_held`, `document_match` and `quantity_match` in the engine.

    The engine holds the inputs of `reconciliation.inputs` that this reads: documents of the period, what was sent, what providers
    have; empty where there is none. `[start, end)` in UTC: what only a provider has belongs to the period in which it was made.
    """
    import pyarrow as pa

    values = {"start_instant": start, "end_instant": end}
    engine.execute(read_sql(_PACKAGE, "document_held"), values)
    rows, documents, quantities = [], [], []
    # One that nobody compares makes the tables, empty, with their columns.
    for one in (*compared, Compared("")):
        _match_documents(engine, one)
        documents.append(fetch(engine, read_sql(_PACKAGE, "document_match"), {"adapter": one.adapter}))
        register(engine, "document_match", documents[-1])
        quantities.append(_match_quantities(engine, one, values))
        rows += _equations(engine, one) if one.adapter else []
    register(engine, "document_match", pa.concat_tables(documents))
    register(engine, "quantity_match", pa.concat_tables(quantities))
    return rows


def _equations(engine: duckdb.DuckDBPyConnection, one: Compared) -> list[ConservationRow]:
    named = {"adapter": one.adapter}
    rows = collection_rows("invoiced", _summed(engine, "invoiced_delivered", named), one.adapter)
    if DOCUMENTS in one.tables:
        rows += collection_rows("confirmed", _summed(engine, "confirmed_held", named), one.adapter)
    if {DOCUMENTS, PAYMENTS} <= one.tables:
        rows += collection_rows("provider", _summed(engine, "held_collected", named), one.adapter)
    return rows


def _match_documents(engine: duckdb.DuckDBPyConnection, one: Compared) -> None:
    named: dict[str, Any] = {"adapter": one.adapter if DOCUMENTS in one.tables else ""}
    ours = fetch(engine, read_sql(_PACKAGE, "match_our_document"), named)
    theirs = fetch(engine, read_sql(_PACKAGE, "match_their_document"), {**named, "for_ever": _FOR_EVER})
    _match(engine, one, ours, theirs)


def _match_quantities(engine: duckdb.DuckDBPyConnection, one: Compared, values: dict[str, Any]) -> pa.Table:
    named: dict[str, Any] = {"adapter": one.adapter if QUANTITIES in one.tables else ""}
    longest = fetch(engine, read_sql(_PACKAGE, "longest_window"), named).to_pylist()
    daily = {**named, "is_daily": any(row["is_daily"] for row in longest)}
    ours = fetch(engine, read_sql(_PACKAGE, "match_our_quantity"), {**daily, **values})
    theirs = fetch(engine, read_sql(_PACKAGE, "match_their_quantity"), {**daily, **values})
    _match(engine, one, ours, theirs)
    return fetch(engine, read_sql(_PACKAGE, "quantity_match"), daily)


def _match(engine: duckdb.DuckDBPyConnection, one: Compared, ours: pa.Table, theirs: pa.Table) -> None:
    match(
        engine,
        ours,
        theirs,
        settled_before=one.settled_before,
        tolerances=one.tolerances,
        otherwise=one.otherwise,
    )


def _summed(engine: duckdb.DuckDBPyConnection, name: str, values: dict[str, Any]) -> list[tuple[str, str, Any]]:
    found = fetch(engine, read_sql(_PACKAGE, name), values)
    return [(row["currency"], row["bucket"], row["amount"]) for row in found.to_pylist()]


def documents_of(invoices: Iterable[Invoice], taxed: Mapping[str, TaxedInvoice] | None = None) -> dict[str, pa.Table]:
    """Return the documents of a period from the books' own rows, as inputs; drafts, which nobody owes, are left out.

    `taxed`: by invoice, its taxes; without them what is asked for is the amount due alone.
    """
    import pyarrow as pa

    found: dict[str, list[dict[str, Any]]] = {name: [] for name in DOCUMENT_INPUTS}
    for one in invoices:
        if one.status == "draft":
            continue
        named = {"invoice_id": one.invoice_id}
        taxes = (taxed or {}).get(one.invoice_id)
        heads = [name for name in schema_of("booked_document").names if name not in {"tax", "tax_on_top"}]
        tax = Decimal(0) if taxes is None else taxes.tax
        on_top = Decimal(0) if taxes is None else exact_difference(taxes.gross, one.total)
        row = {**{name: getattr(one, name) for name in heads}, "tax": tax, "tax_on_top": on_top}
        found["booked_document"].append(row)
        for line in one.lines:
            found["document_line"].append({**named, "exact_amount": line.exact_amount, "amount": line.amount})
            found["document_charge"] += [{**named, "exact_amount": charge.exact_amount} for charge in line.charges]
        found["document_burn"] += [{**named, "amount": burn.amount} for burn in one.prepaid]
    return {name: pa.Table.from_pylist(rows, schema=schema_of(name)) for name, rows in found.items()}
