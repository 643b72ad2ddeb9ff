"""What controls read of the books: final documents and their lines, as tables.

Enters: a connection to the books, and from which billing periods on. Leaves: the given inputs of `reconciliation.inputs`.
Refuses: to write. One row per document, and one per line; amounts as they are booked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Select, select

from rating.books import invoice_lines, invoices

if TYPE_CHECKING:
    from datetime import datetime

    import pyarrow as pa


def documents_since(connection: Connection, since: datetime) -> dict[str, pa.Table]:
    """Return every final document with a line of a billing period that begins at `since` or later, with all its lines."""
    mine = (
        select(invoice_lines.c.invoice_id)
        .join(invoices, invoices.c.invoice_id == invoice_lines.c.invoice_id)
        .where(invoices.c.status == "final", invoice_lines.c.period_start >= since)
        .distinct()
    )
    return {
        "final_invoice": _read(connection, "final_invoice", select(invoices).where(invoices.c.invoice_id.in_(mine))),
        "final_line": _read(
            connection, "final_line", select(invoice_lines).where(invoice_lines.c.invoice_id.in_(mine))
        ),
    }


def _read(connection: Connection, name: str, asked: Select[Any]) -> pa.Table:
    """Return what a query gives in the columns that controls know."""
    import pyarrow as pa

    from billing_adapters.reconciliation.inputs import schema_of

    schema = schema_of(name)
    rows = connection.execute(asked.with_only_columns(*(asked.selected_columns[column] for column in schema.names)))
    values = list(zip(*rows.all(), strict=True)) or [()] * len(schema)
    return pa.table(
        [pa.array(list(column), field.type) for column, field in zip(values, schema, strict=True)], schema=schema
    )
