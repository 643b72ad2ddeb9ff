"""Roll-forwards: how receivables, unbilled receivables and deferred revenue of each account went from month to month.

Enters: the journal of the published run, that of the earlier documents that still move something, and what was owed before it.
Leaves: one table per file, one row per account, currency and month: opening, movements, closing.
Refuses: figures of its own. Every amount is a sum of legs of journal entries; nothing is rounded, netted over accounts or carried
over by hand.

Months are those of the days on which entries are posted, from the first month of the run (`rolled_from`) to the last in which
its own documents post, so a fee billed for a year shows when it will be earned. Earlier documents are those of closes
before the last one of the run, as they stood at it: what comes later, a void of such a document too, is of a later run, so
that a published run stays what it was. Documents whose entries all lie before the first month and add up to zero by
then need not be there (`rating.ledger.read_posting_since`). Receivables stay open until they are settled, so theirs come as
legs of their own (`billing_adapters.receivables`).
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from billing_adapters.journal_entries import journal_of
from metering.engine import fetch, open_engine, read_sql
from metering.questions import register
from rating.paper import as_issued

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    import pyarrow as pa

    from billing_adapters.ports import PublishedRun
    from metering.periods import WallPeriod
    from rating.invoice import Invoice

FILES = ("receivables_roll_forward", "unbilled_roll_forward", "deferred_roll_forward", "prepaid_roll_forward")
_POSTED = ("account_id", "currency", "date", "role", "kind", "debit", "credit", "invoice_id")
_ZERO = Decimal(0)


def rolled_from(period: WallPeriod, invoices: Sequence[Invoice]) -> date:
    """Return the first day of the first month that is rolled: of the period, or of an issue before it."""
    days = [period.start.date(), *(one.issued_at.date() for one in invoices)]
    return min(days).replace(day=1)


def roll_forwards(run: PublishedRun, entries: pa.Table) -> dict[str, pa.Table]:
    """Return the roll-forwards of a run, by the name of their files; `entries` are its own journal entries."""
    import pyarrow as pa
    import pyarrow.compute as pc

    earlier = journal_of(run.earlier, run.ledger).entries
    # What earlier documents ask for stands among the legs, with those that are open for longer than they post.
    earlier = earlier.filter(pc.not_equal(earlier["role"], "receivables"))
    owed = _owed(run, entries.select(_POSTED).schema)
    parts = [
        table.select(_POSTED).append_column("is_own", pa.array([is_own] * table.num_rows, pa.bool_()))
        for table, is_own in ((entries, True), (earlier, False), (owed, False))
    ]
    first = rolled_from(run.period, run.invoices)
    last = max([first, run.period.start.date(), *entries["date"].to_pylist()]).replace(day=1)
    engine = open_engine(threads=1)
    try:
        register(engine, "posting", pa.concat_tables(parts))
        register(engine, "document_due", _due(run))
        register(engine, "prepaid_leg", _prepaid(run))
        span = pa.schema([("first_month", pa.date32()), ("last_month", pa.date32())])
        register(engine, "roll_span", pa.Table.from_pylist([{"first_month": first, "last_month": last}], schema=span))
        engine.execute(read_sql("billing_adapters.file_adapter", "rolled_month"))
        return {name: fetch(engine, read_sql("billing_adapters.file_adapter", name)) for name in FILES}
    finally:
        engine.close()


def _owed(run: PublishedRun, schema: pa.Schema) -> pa.Table:
    """Return the earlier legs of receivables as legs of the journal."""
    import pyarrow as pa

    rows = [
        {
            **{name: getattr(leg, name) for name in ("account_id", "currency", "kind", "invoice_id")},
            "date": leg.posted_on,
            "role": "receivables",
            "debit": max(leg.amount, _ZERO),
            "credit": max(leg.amount.copy_negate(), _ZERO),
        }
        for leg in run.owed
    ]
    return pa.Table.from_pylist(rows, schema=schema)


def _due(run: PublishedRun) -> pa.Table:
    """Return by when each document was to be paid: as issued, and where nobody said, on its day of issue."""
    import pyarrow as pa

    due = {leg.invoice_id: leg.due_on for leg in run.owed}
    due |= {one.settlement.invoice_id: one.due_on for one in run.settlements}
    due |= {paper.invoice.invoice_id: as_issued(paper).due_date or paper.issue_date for paper in run.papers}
    schema = pa.schema([("invoice_id", pa.string()), ("due_on", pa.date32())])
    return pa.Table.from_pylist([{"invoice_id": one, "due_on": day} for one, day in sorted(due.items())], schema=schema)


def _prepaid(run: PublishedRun) -> pa.Table:
    """Return the legs of prepaid balances as a table."""
    import pyarrow as pa

    texts = [(name, pa.string()) for name in ("balance_id", "account_id", "currency", "kind")]
    schema = pa.schema([*texts, ("posted_on", pa.date32()), ("amount", pa.decimal128(38, 4)), ("is_own", pa.bool_())])
    rows = [{name: getattr(leg, name) for name in schema.names} for leg in run.prepaid]
    return pa.Table.from_pylist(rows, schema=schema)
