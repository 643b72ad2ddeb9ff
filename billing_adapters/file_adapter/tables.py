"""From a run to the tables of its files, one Arrow table per file.

Enters: invoices of the books and the usage of a rated engine. Leaves: tables in the declared schemas, sorted by key.
Refuses: to compute. Every figure stands in the books or in the engine already.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from billing_adapters.file_adapter.columns import CHARGES, INVOICE_LINES, INVOICE_REGISTER, USAGE, arrow_schema
from metering.engine import fetch, read_sql
from rating.invoice import content_hash

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import duckdb
    import pyarrow as pa

    from billing_adapters.file_adapter.columns import FileShape
    from billing_adapters.ports import PublishedRun
    from rating.invoice import Invoice, InvoiceLine

Row = dict[str, Any]


def usage_of(engine: duckdb.DuckDBPyConnection) -> pa.Table:
    """Return the usage behind a close, from an engine in which it was rated (`rating.run.rated`).

    One row per tenant, meter, subscription, billing period, price and group; units of the meter, exact.
    """
    return fetch(engine, read_sql("billing_adapters.file_adapter", "usage"))


def tables_of(run: PublishedRun, run_id: str) -> list[tuple[FileShape, pa.Table]]:
    """Return every file of a run with its table, rows in the order of the file's key."""
    lines = [(invoice, line) for invoice in run.invoices for line in invoice.lines]
    return [
        (INVOICE_REGISTER, _table(INVOICE_REGISTER, run_id, map(_register_row(run.account_names), run.invoices))),
        (INVOICE_LINES, _table(INVOICE_LINES, run_id, (_line_row(*pair) for pair in lines))),
        (CHARGES, _table(CHARGES, run_id, (row for pair in lines for row in _charge_rows(*pair)))),
        (USAGE, usage_table(run, run_id)),
    ]


def usage_table(run: PublishedRun, run_id: str) -> pa.Table:
    """Return the table of the usage file alone."""
    return _table(USAGE, run_id, run.usage.to_pylist())


def _table(shape: FileShape, run_id: str, rows: Iterable[Row]) -> pa.Table:
    import pyarrow as pa

    nullable = [column.name for column in shape.columns if column.nullable]
    # Most readers of CSV take an empty text for a missing one, so there are no empty texts.
    listed = [{**row, **{name: row[name] or None for name in nullable}, "run_id": run_id} for row in rows]
    schema = arrow_schema(shape)
    table = pa.Table.from_pylist(listed, schema=schema)
    return table.sort_by([(name, "ascending") for name in shape.key])


def _register_row(account_names: Mapping[str, str]) -> Any:
    def row_of(invoice: Invoice) -> Row:
        series = invoice.number.rpartition("-")[0] if invoice.number else None
        plan_versions = sorted({(line.plan, line.plan_version) for line in invoice.lines})
        return {
            "series": series,
            "number": invoice.number,
            "document_type": "pro forma" if invoice.status == "draft" else "invoice",
            "invoice_id": invoice.invoice_id,
            "status": invoice.status,
            "issue_date": invoice.issued_at.date(),
            "issued_at": invoice.issued_at,
            "billing_period_start": invoice.period_start.date(),
            "billing_period_end": invoice.period_end.date(),
            "account_id": invoice.account_id,
            "account_name": account_names.get(invoice.account_id),
            "currency": invoice.currency,
            "amount_net": invoice.total,
            "lines": len(invoice.lines),
            # A list in one cell: JSON, because a plan's name may hold any separator.
            "plan_versions": json.dumps([f"{plan}/{version}" for plan, version in plan_versions], ensure_ascii=False),
            "close_id": invoice.close_id,
            "snapshot_id": invoice.snapshot_id,
            "catalog_revision": invoice.catalog_revision,
            "content_hash": content_hash(invoice),
        }

    return row_of


def _line_row(invoice: Invoice, line: InvoiceLine) -> Row:
    same = (
        "position", "line_id", "kind", "tenant_id", "subscription_id", "plan", "plan_version", "price_id", "price_type",
        "meter", "unit", "description", "quantity", "exact_amount", "amount", "currency", "cumulative_quantity",
        "cumulative_exact_amount", "cumulative_amount",
    )  # fmt: skip
    return {
        **{name: getattr(line, name) for name in same},
        "invoice_id": invoice.invoice_id,
        "number": invoice.number,
        "account_id": invoice.account_id,
        "attributes": line.group_key,
        "billing_period_start": line.period_start,
        "billing_period_end": line.period_end,
        "service_period_start": line.service_start,
        "service_period_end": line.service_end,
        "discovered_period_start": invoice.period_start.date(),
        "discovered_period_end": invoice.period_end.date(),
    }


def _charge_rows(invoice: Invoice, line: InvoiceLine) -> list[Row]:
    return [
        {
            "invoice_id": invoice.invoice_id,
            "line_id": line.line_id,
            "position": position,
            "tenant_id": line.tenant_id,
            "price_id": line.price_id,
            "meter": line.meter,
            "cell": charge.cell_key,
            "tier": charge.tier,
            "part": charge.part,
            "quantity": charge.quantity,
            "unit_price": charge.unit_price,
            "exact_amount": charge.exact_amount,
            "currency": line.currency,
        }
        for position, charge in enumerate(line.charges, start=1)
    ]
