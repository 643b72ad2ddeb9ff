"""Journal entries: what final documents mean for the general ledger, as balanced double entry.

Enters: papers of final documents, and the ledger accounts of the catalog. Leaves: `journal_entry`, one row per leg, and
`journal_summary`, the same added up per day and account.
Refuses: drafts, which book nothing, and entries whose debits and credits differ (InvariantViolated; there is never one).

When revenue is earned: usage, minimums and corrections with the document, on the last day of the period that it invoices, or
on its day of issue if that is earlier. So a period that was invoiced after its end is accrued in it (unbilled receivables),
and the document takes that back. A fee (price type flat) is earned day by day over its service period, in the time zone of
its plan: what belongs to later months is deferred and released in each of them, on its last day, shared out by days with
the largest remainder. Nothing is posted into months before the document's own: what is found late is earned when found.

A void takes all of its document back on its own day (entries of the kind void), releases that come later on theirs.

Gross is split into what balances paid and what is payable. A burn releases what had been paid for (prepaid balances); what was
granted for nothing lowers the revenue (promotions). Selling a balance is no document of Tallybook.

Payments, refunds and write-offs that are booked (`settlements`) take off receivables: against cash, or bad debt.
Source: finance files, section 3. Amounts are those of the documents; nothing is rounded here but the shares of fees.
"""

from __future__ import annotations

from calendar import monthrange
from collections import Counter
from datetime import date, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from metering.engine import fetch, open_engine, read_sql
from metering.questions import register
from rating.allocation import allocate
from rating.errors import InvariantViolated
from rating.invoice import content_hash
from rating.iso4217 import minor_units
from rating.rounding import exact_sum

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pyarrow as pa

    from billing_adapters.ledger_accounts import LedgerMap, Role
    from billing_adapters.receivables import PostedSettlement
    from rating.invoice import InvoiceLine
    from rating.paper import Paper

Row = dict[str, Any]
_STATEMENTS = ("journal_posting", "journal_void", "journal_entry", "journal_settlement", "journal_summary")
# What settles a document, and the role that it is posted against.
AGAINST: dict[str, Role] = {"payment": "cash", "refund": "cash", "write_off": "bad_debt"}


class Journal(NamedTuple):
    """The legs of all entries, and the same added up per close, day and account."""

    entries: pa.Table
    summary: pa.Table


class Earned(NamedTuple):
    """How the net of a line is earned: now, with its document, and later, by the last day of each month."""

    now: Decimal
    later: dict[date, Decimal]


def journal_of(papers: Iterable[Paper], ledger: LedgerMap, settlements: Iterable[PostedSettlement] = ()) -> Journal:
    """Return the journal of the final and void documents among the papers, and of settlements. Pure: the same rows and ids."""
    tables: dict[str, list[Row]] = {name: [] for name in _schemas()}
    for paper in papers:
        if paper.invoice.status != "draft":
            _add(paper, ledger, tables)
    tables["settlement"] += [_settlement_row(one, ledger) for one in settlements]
    engine = open_engine(threads=1)
    try:
        for name, schema in _schemas().items():
            register(engine, name, _table(tables[name], schema))
        for name in _STATEMENTS:
            engine.execute(read_sql("billing_adapters", name))
        if unbalanced := fetch(engine, read_sql("billing_adapters", "journal_unbalanced")).to_pylist():
            raise InvariantViolated(f"debits and credits of journal entries differ: {unbalanced[:3]}")
        return Journal(
            fetch(engine, "SELECT * FROM journal_entry ORDER BY date, entry_id, line_no"),
            fetch(engine, "SELECT * FROM journal_summary ORDER BY date, entry_id, line_no"),
        )
    finally:
        engine.close()


def earned_on(paper: Paper) -> date:
    """Return the day on which what a document bills counts as earned: the last of its period, or its issue if earlier."""
    return min(paper.issue_date, paper.invoice.period_end.date() - timedelta(days=1))


def earned_of(paper: Paper, line: InvoiceLine, net: Decimal) -> Earned:
    """Return how the net of a line is earned. Only fees reach into later months than the day the document is earned on."""
    if line.price_type != "flat":
        return Earned(net, {})
    starts, ends = (
        paper.day_of(line, line.service_start),
        paper.day_of(line, line.service_end - timedelta(microseconds=1)),
    )
    own = end_of_month(earned_on(paper))
    days: Counter[date] = Counter()
    day = starts
    while day <= ends:
        month = max(end_of_month(day), own)
        last = min(month, ends)
        days[month] += (last - day).days + 1
        day = last + timedelta(days=1)
    months = sorted(days)
    if not months:
        return Earned(net, {})
    shares = allocate(net, [Decimal(days[month]) for month in months], minor_units(line.currency))
    later = {month: share for month, share in zip(months, shares, strict=True) if month != own}
    return Earned(exact_sum([net, *(-share for share in later.values())]), later)


def end_of_month(day: date) -> date:
    """Return the last day of the month that a day lies in."""
    return day.replace(day=monthrange(day.year, day.month)[1])


def _add(paper: Paper, ledger: LedgerMap, tables: Mapping[str, list[Row]]) -> None:
    """Add a document to the tables that the statements read, each amount with the account that it goes to."""
    of: dict[str, str | None] = {
        "seller": paper.seller.id if paper.seller else None,
        "currency": paper.invoice.currency,
    }
    tables["document"].append(_document_row(paper, ledger, of))
    for line, taxed in zip(paper.invoice.lines, paper.taxed.lines, strict=True):
        shares = earned_of(paper, line, taxed.net)
        tables["document_line"].append(_line_row(paper, line, shares, ledger, of))
        tables["document_release"] += [
            {"invoice_id": paper.invoice.invoice_id, "line_id": line.line_id, "posted_on": month, "amount": amount}
            for month, amount in shares.later.items()
        ]
    tables["document_tax"] += [
        {
            "invoice_id": paper.invoice.invoice_id,
            "position": position,
            "tax": name,
            "amount": amount,
            "account": ledger.account_of("tax", **of, tax=name).number,
        }
        for position, (name, _, _, amount) in enumerate(paper.sums_by_tax, start=1)
    ]
    tables["document_burn"] += [
        {
            "invoice_id": paper.invoice.invoice_id,
            "position": position,
            "line_id": burn.line_id,
            "balance_id": burn.balance_id,
            "paid": paid,
            "given": burn.amount - paid,
            "paid_back": back,
            "given_back": burn.amount - back,
            "prepaid_account": ledger.account_of("prepaid_balances", **of).number,
            "promotions_account": ledger.account_of("promotions", **of).number,
        }
        for position, (burn, paid, back) in enumerate(
            zip(paper.invoice.prepaid, paper.burns_paid, paper.burns_paid_back, strict=True), start=1
        )
    ]


def _document_row(paper: Paper, ledger: LedgerMap, of: dict[str, str | None]) -> Row:
    invoice, earned = paper.invoice, earned_on(paper)
    return {
        "invoice_id": invoice.invoice_id,
        "batch_id": invoice.close_id,
        "number": invoice.number,
        "content_hash": content_hash(invoice),
        "account_id": invoice.account_id,
        "entity": of["seller"],
        "currency": invoice.currency,
        "issued_on": paper.issue_date,
        "earned_on": earned,
        "voided_on": None if paper.voided is None else paper.voided.voided_at.date(),
        "is_accrued": end_of_month(earned) < end_of_month(paper.issue_date),
        "payable": paper.payable,
        "receivables_account": ledger.account_of("receivables", **of).number,
        "unbilled_account": ledger.account_of("unbilled_receivables", **of).number,
    }


def _line_row(paper: Paper, line: InvoiceLine, shares: Earned, ledger: LedgerMap, of: dict[str, str | None]) -> Row:
    terms = {**of, "plan": line.plan, "price": line.price_id, "meter": line.meter}
    revenue = ledger.account_of("revenue", **terms)
    return {
        "invoice_id": paper.invoice.invoice_id,
        "line_id": line.line_id,
        "position": line.position,
        "earned": shares.now,
        "deferred": exact_sum(shares.later.values()),
        "revenue_account": revenue.number,
        "department": revenue.department,
        "deferred_account": ledger.account_of("deferred_revenue", **terms).number,
        "product": line.price_id,
    }


def _settlement_row(posted: PostedSettlement, ledger: LedgerMap) -> Row:
    one = posted.settlement
    of = {"seller": posted.entity, "currency": one.currency}
    same = ("settlement_id", "kind", "amount", "account_id", "invoice_id", "currency")
    return {
        **{name: getattr(one, name) for name in same},
        "batch_id": posted.batch_id,
        "posted_on": one.posted_at.date(),
        "number": posted.number,
        "entity": posted.entity,
        "against": AGAINST[one.kind],
        "against_account": ledger.account_of(AGAINST[one.kind], **of).number,
        "receivables_account": ledger.account_of("receivables", **of).number,
    }


def _table(rows: list[Row], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist(rows, schema=schema)


def _schemas() -> dict[str, pa.Schema]:
    """Return the tables that the statements read: documents, and per document its lines, taxes, burns and releases."""
    import pyarrow as pa

    text, day, amount, whole = pa.string(), pa.date32(), pa.decimal128(38, 4), pa.int64()
    return {
        "document": pa.schema(
            [
                *(
                    (name, text)
                    for name in ("invoice_id", "batch_id", "number", "content_hash", "account_id", "entity")
                ),
                *(
                    ("currency", text),
                    ("issued_on", day),
                    ("earned_on", day),
                    ("voided_on", day),
                    ("is_accrued", pa.bool_()),
                ),
                *(("payable", amount), ("receivables_account", text), ("unbilled_account", text)),
            ]
        ),
        "document_line": pa.schema(
            [
                *(("invoice_id", text), ("line_id", text), ("position", whole)),
                *(("earned", amount), ("deferred", amount)),
                *((name, text) for name in ("revenue_account", "department", "deferred_account", "product")),
            ]
        ),
        "document_release": pa.schema(
            [("invoice_id", text), ("line_id", text), ("posted_on", day), ("amount", amount)]
        ),
        "document_tax": pa.schema(
            [("invoice_id", text), ("position", whole), ("tax", text), ("amount", amount), ("account", text)]
        ),
        "settlement": pa.schema(
            [
                *((name, text) for name in ("settlement_id", "batch_id", "kind", "account_id", "invoice_id", "number")),
                *((name, text) for name in ("entity", "currency", "against", "against_account", "receivables_account")),
                *(("posted_on", day), ("amount", amount)),
            ]
        ),
        "document_burn": pa.schema(
            [
                *(("invoice_id", text), ("position", whole), ("line_id", text), ("balance_id", text)),
                *((name, amount) for name in ("paid", "given", "paid_back", "given_back")),
                *(("prepaid_account", text), ("promotions_account", text)),
            ]
        ),
    }
