"""From a run to the tables of its files, one Arrow table per file.

Enters: papers of invoices of the books, and the usage of a rated engine. Leaves: tables in the declared schemas, sorted by key.
Refuses: to compute. Every figure stands in the books, on the paper or in the engine already; lists of them are added up.
"""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any

from billing_adapters.file_adapter.columns import arrow_schema
from billing_adapters.file_adapter.roll_forwards import roll_forwards
from billing_adapters.file_adapter.shapes import (
    CHARGES,
    DEFERRED_ROLL_FORWARD,
    INVOICE_LINES,
    INVOICE_REGISTER,
    JOURNAL_ENTRIES,
    JOURNAL_SUMMARY,
    PREPAID_BURNS,
    PREPAID_ROLL_FORWARD,
    RATED_CHANGES,
    RECEIVABLES_ROLL_FORWARD,
    SETTLEMENTS,
    TIE_OUTS,
    UNBILLED_ROLL_FORWARD,
    USAGE,
)
from billing_adapters.file_adapter.tie_outs import TieOuts
from billing_adapters.journal_entries import journal_of
from metering.engine import fetch, read_sql
from metering.numbers import exact_difference, plain, trimmed
from rating.invoice import content_hash
from rating.rounding import exact_sum

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import duckdb
    import pyarrow as pa

    from billing_adapters.file_adapter.columns import FileShape
    from billing_adapters.ledger_accounts import LedgerMap
    from billing_adapters.ports import PublishedRun
    from billing_adapters.receivables import PostedSettlement
    from rating.invoice import Invoice, InvoiceLine
    from rating.paper import Paper
    from rating.tax import TaxedLine

Row = dict[str, Any]
# What the charges of discounts are called, before the discount's id.
DISCOUNT = "discount:"
_BATCH_ROWS = 16_384


def usage_of(engine: duckdb.DuckDBPyConnection) -> pa.Table:
    """Return the usage behind a close, from an engine in which it was rated (`rating.run.rated`).

    One row per tenant, meter, subscription, billing period, price and group; units of the meter, exact.
    """
    return fetch(engine, read_sql("billing_adapters.file_adapter", "usage"))


def tables_of(run: PublishedRun, run_id: str) -> Iterator[tuple[FileShape, pa.Table]]:
    """Yield every file of a run with its table, rows in the order of the file's key. One at a time, to be let go of."""
    ties = TieOuts()
    for shape, table in _facts_of(run, run_id):
        ties.see(shape, table)
        yield shape, table
    yield TIE_OUTS, _table(TIE_OUTS, run_id, ties.rows())


def _facts_of(run: PublishedRun, run_id: str) -> Iterator[tuple[FileShape, pa.Table]]:
    """Yield the files that repeat books and papers: all but the comparisons of their totals."""
    # A void document keeps its number in the register and its entries in the journal; its lines are billed by others.
    standing = [paper for paper in run.papers if paper.voided is None]
    lines = ((paper.invoice, line) for paper in standing for line in paper.invoice.lines)
    yield INVOICE_REGISTER, _table(INVOICE_REGISTER, run_id, map(_register_row, run.papers))
    yield (
        INVOICE_LINES,
        _table(INVOICE_LINES, run_id, (row for paper in standing for row in _line_rows(paper, run.ledger))),
    )
    yield RATED_CHANGES, _table(RATED_CHANGES, run_id, (row for paper in standing for row in _change_rows(paper)))
    yield CHARGES, _table(CHARGES, run_id, (row for pair in lines for row in _charge_rows(*pair)))
    yield USAGE, usage_table(run, run_id)
    yield PREPAID_BURNS, _table(PREPAID_BURNS, run_id, (row for paper in standing for row in _burn_rows(paper)))
    yield SETTLEMENTS, _table(SETTLEMENTS, run_id, map(_settlement_row, run.settlements))
    entries, summary = journal_of(run.papers, run.ledger, run.settlements)
    yield JOURNAL_ENTRIES, _table(JOURNAL_ENTRIES, run_id, _rows_of(entries))
    yield JOURNAL_SUMMARY, _table(JOURNAL_SUMMARY, run_id, _rows_of(summary))
    rolled = roll_forwards(run, entries)
    for shape in (RECEIVABLES_ROLL_FORWARD, UNBILLED_ROLL_FORWARD, DEFERRED_ROLL_FORWARD, PREPAID_ROLL_FORWARD):
        yield shape, _table(shape, run_id, _rows_of(rolled[shape.name]))


def usage_table(run: PublishedRun, run_id: str) -> pa.Table:
    """Return the table of the usage file alone."""
    return _table(USAGE, run_id, _rows_of(run.usage))


def _rows_of(table: pa.Table) -> Iterator[Row]:
    return (row for batch in table.to_batches(max_chunksize=_BATCH_ROWS) for row in batch.to_pylist())


def _table(shape: FileShape, run_id: str, rows: Iterable[Row]) -> pa.Table:
    import pyarrow as pa

    schema = arrow_schema(shape)
    nullable = [column.name for column in shape.columns if column.nullable]
    left = iter(rows)
    batches = []
    while some := list(islice(left, _BATCH_ROWS)):
        # Most readers of CSV take an empty text for a missing one, so there are no empty texts.
        listed = [{**row, **{name: row[name] or None for name in nullable}, "run_id": run_id} for row in some]
        batches.append(pa.RecordBatch.from_pylist(listed, schema=schema))
    table = pa.Table.from_batches(batches, schema=schema)
    return table.sort_by([(name, "ascending") for name in shape.key])


def _register_row(paper: Paper) -> Row:
    invoice, account = paper.invoice, paper.account
    plan_versions = sorted({(line.plan, line.plan_version) for line in invoice.lines})
    return {
        "entity": paper.seller.id if paper.seller else None,
        "series": invoice.number.rpartition("-")[0] if invoice.number else None,
        "number": invoice.number,
        "document_type": paper.document_type,
        "corrects_numbers": _listed(paper.corrects),
        "invoice_id": invoice.invoice_id,
        "status": invoice.status,
        "issue_date": paper.issue_date,
        "issued_at": invoice.issued_at,
        "due_date": paper.due_date,
        "billing_period_start": invoice.period_start.date(),
        "billing_period_end": invoice.period_end.date(),
        "service_period_start": min(line.service_start for line in invoice.lines),
        "service_period_end": max(line.service_end for line in invoice.lines),
        "account_id": invoice.account_id,
        "account_name": account.name,
        "account_vat_id": account.vat_id,
        "account_country": account.address.country if account.address else None,
        "purchase_order": account.purchase_order,
        "currency": invoice.currency,
        **_amounts(paper),
        "lines": len(invoice.lines) if paper.voided is None else 0,
        "plan_versions": _listed([f"{plan}/{version}" for plan, version in plan_versions]),
        "close_id": invoice.close_id,
        "snapshot_id": invoice.snapshot_id,
        "catalog_revision": invoice.catalog_revision,
        "content_hash": content_hash(invoice),
    }


def _amounts(paper: Paper) -> Row:
    """Return the amounts of a document in the register: of a void one all are zero, beside what it had been issued for."""
    stands = {
        "net": paper.net,
        "tax": paper.tax,
        "gross": paper.gross,
        "prepaid": paper.prepaid,
        "payable": paper.payable,
    }
    is_void = paper.voided is not None
    amounts = {f"amount_{name}": amount - amount if is_void else amount for name, amount in stands.items()}
    void: Row = {"voided_at": None, "void_reason": None, "amount_voided": paper.gross - paper.gross}
    if paper.voided is not None:
        void = {"voided_at": paper.voided.voided_at, "void_reason": paper.voided.reason, "amount_voided": paper.gross}
    return amounts | void


def _line_rows(paper: Paper, ledger: LedgerMap) -> Iterator[Row]:
    of = {"seller": paper.seller.id if paper.seller else None, "currency": paper.invoice.currency}
    burned: dict[str, list[Any]] = {}
    for burn in paper.invoice.prepaid:
        burned.setdefault(burn.line_id, []).append(burn.amount)
    for line, taxed in zip(paper.invoice.lines, paper.taxed.lines, strict=True):
        revenue = ledger.account_of("revenue", **of, plan=line.plan, price=line.price_id, meter=line.meter)
        yield _line_row(paper.invoice, line, taxed) | {
            "prepaid_amount": exact_sum(burned.get(line.line_id, ())),
            "revenue_account": revenue.number,
        }


def _line_row(invoice: Invoice, line: InvoiceLine, taxed: TaxedLine) -> Row:
    same = (
        "position", "line_id", "kind", "tenant_id", "subscription_id", "plan", "plan_version", "price_id", "price_type",
        "meter", "unit", "description", "quantity", "exact_amount", "amount", "currency", "cumulative_quantity",
        "cumulative_exact_amount", "cumulative_amount",
    )  # fmt: skip
    discounts = [charge for charge in line.charges if charge.part.startswith(DISCOUNT)]
    discount = exact_sum([charge.exact_amount for charge in discounts])
    taxes = [
        {"name": rate.name, "percent": trimmed(rate.percent), "amount": plain(amount)} for rate, amount in taxed.taxes
    ]
    return {
        **{name: getattr(line, name) for name in same},
        "invoice_id": invoice.invoice_id,
        "number": invoice.number,
        "account_id": invoice.account_id,
        "attributes": line.group_key,
        "list_amount": exact_sum([line.exact_amount, -discount]),
        "discount_ids": _listed(list(dict.fromkeys(charge.part.removeprefix(DISCOUNT) for charge in discounts))),
        "discount_amount": discount,
        "net_amount": taxed.net,
        "tax_code": taxed.tax_code,
        "taxes": _listed(taxes),
        "tax_amount": taxed.tax,
        **_spans(invoice, line),
    }


def _spans(invoice: Invoice, line: InvoiceLine) -> Row:
    return {
        "billing_period_start": line.period_start,
        "billing_period_end": line.period_end,
        "service_period_start": line.service_start,
        "service_period_end": line.service_end,
        "discovered_period_start": invoice.period_start.date(),
        "discovered_period_end": invoice.period_end.date(),
    }


def _change_rows(paper: Paper) -> Iterator[Row]:
    """Yield what corrections change. Before is what the books hold now less what the line books, exactly."""
    invoice = paper.invoice
    terms = ("position", "line_id", "tenant_id", "subscription_id", "plan", "plan_version", "price_id", "price_type", "meter",
             "unit", "currency")  # fmt: skip
    for line in (one for one in invoice.lines if one.kind == "correction"):
        before = paper.billed_before.get(line.line_id)
        quantity = exact_difference(line.cumulative_quantity, line.quantity)
        amount = exact_difference(line.cumulative_amount, line.amount)
        yield {
            **{name: getattr(line, name) for name in terms},
            "invoice_id": invoice.invoice_id,
            "number": invoice.number,
            "account_id": invoice.account_id,
            "attributes": line.group_key,
            "quantity_before": quantity,
            "quantity_after": line.cumulative_quantity,
            "quantity_change": line.quantity,
            "amount_before": amount,
            "amount_after": line.cumulative_amount,
            "amount_change": line.amount,
            "reason": "new" if not quantity and not amount else "usage" if line.quantity else "terms",
            "before_number": before.number if before else None,
            "before_snapshot_id": before.snapshot_id if before else None,
            "snapshot_id": invoice.snapshot_id,
            **_spans(invoice, line),
        }


def _burn_rows(paper: Paper) -> list[Row]:
    invoice = paper.invoice
    return [
        {
            "invoice_id": invoice.invoice_id,
            "number": invoice.number,
            "position": position,
            "line_id": burn.line_id,
            "account_id": invoice.account_id,
            "balance_id": burn.balance_id,
            "amount": burn.amount,
            "paid_amount": paid,
            "currency": invoice.currency,
        }
        for position, (burn, paid) in enumerate(zip(invoice.prepaid, paper.burns_paid, strict=True), start=1)
    ]


def _settlement_row(posted: PostedSettlement) -> Row:
    one = posted.settlement
    same = (
        "settlement_id", "kind", "invoice_id", "account_id", "amount", "currency", "paid_at", "read_at", "adapter",
        "provider_id",
    )  # fmt: skip
    return {
        **{name: getattr(one, name) for name in same},
        "batch_id": posted.batch_id,
        "date": one.posted_at.date(),
        "number": posted.number,
    }


def _listed(values: Any) -> str | None:
    # A list in one cell: JSON, because a name may hold any separator.
    return json.dumps(list(values), ensure_ascii=False) if values else None


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
