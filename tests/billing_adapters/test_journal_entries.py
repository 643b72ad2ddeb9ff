"""Journal entries against a slow bookkeeper: debits equal credits, every day of a fee is earned once, ids never move."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing_adapters.journal_entries import journal_of
from billing_adapters.ledger_accounts import ROLES, LedgerAccount, LedgerMap
from rating.balances import Burn
from rating.invoice import Invoice, InvoiceLine
from rating.paper import Books, Paper, papers_of
from rating.plans import Account, Plan
from rating.spans import plan_key

Row = dict[str, Any]
ZONES = ("UTC", "America/Los_Angeles", "Asia/Tokyo", "Europe/Berlin")
CURRENCIES = {"USD": 2, "JPY": 0, "KWD": 3}
PLANS = {
    plan_key(f"in {zone}", 1): Plan.model_validate(
        {"name": f"in {zone}", "version": "1", "currency": "USD", "billing_period": {"timezone": zone}}
    )
    for zone in ZONES
}
UNMAPPED = LedgerMap()


def midnight(day: date, zone: str) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)


def line_of(
    number: int, zone: str, kind: str, starts: date, days: int, amount: Decimal, currency: str = "USD"
) -> InvoiceLine:
    start, end = midnight(starts, zone), midnight(starts + timedelta(days=days), zone)
    return InvoiceLine(
        line_id=f"line-{number}", position=number, kind=kind, tenant_id="acme", subscription_id="sub", plan=f"in {zone}",
        plan_version=1, price_id=f"price-{number}", price_type="flat" if kind == "flat" else "unit", meter=None, unit=None,
        group_key="", description="", currency=currency, period_start=start, period_end=end, service_start=start,
        service_end=end, quantity=Decimal(1), exact_amount=amount, amount=amount, cumulative_quantity=Decimal(1),
        cumulative_exact_amount=amount, cumulative_amount=amount, charges=(),
    )  # fmt: skip


def paper_of(
    lines: Sequence[InvoiceLine],
    *,
    period: tuple[date, date] = (date(2026, 10, 1), date(2026, 11, 1)),
    issued: datetime = datetime(2026, 11, 1, 6, tzinfo=UTC),
    burns: Sequence[tuple[str, Decimal, Decimal]] = (),
    taxes: Sequence[Row] = (),
    status: str = "final",
    name: str = "1",
) -> Paper:
    total = sum((line.amount for line in lines), Decimal(0))
    prepaid = tuple(Burn(line_id, "balance", amount) for line_id, amount, _ in burns)
    invoice = Invoice(
        invoice_id=f"inv-{name}", close_id="close-1", account_id="acme-inc", currency=lines[0].currency,
        document_type="invoice", status=status, number=f"INV-{name}", period_start=midnight(period[0], "UTC"),
        period_end=midnight(period[1], "UTC"), issued_at=issued, snapshot_id="snapshot", catalog_revision=1, total=total,
        amount_due=total - sum((burn.amount for burn in prepaid), Decimal(0)), lines=tuple(lines), prepaid=prepaid,
    )  # fmt: skip
    account = Account.model_validate({"id": "acme-inc", "name": "Acme", "taxes": list(taxes)})
    books = Books({}, {(invoice.invoice_id, at): paid for at, (_, _, paid) in enumerate(burns, start=1)})
    return papers_of([invoice], accounts={"acme-inc": account}, sellers=[], plans=PLANS, books=books)[0]


def legs(papers: Sequence[Paper], ledger: LedgerMap = UNMAPPED) -> list[Row]:
    rows: list[Row] = journal_of(papers, ledger).entries.to_pylist()
    return rows


def balance_of(rows: list[Row], *accounts: str, period: str | None = None) -> Decimal:
    """Return debits less credits of accounts, of a month or of all time."""
    chosen = [row for row in rows if row["account"] in accounts and period in {None, row["period"]}]
    return sum((row["debit"] - row["credit"] for row in chosen), Decimal(0))


def slow_bookkeeper(paper: Paper) -> dict[tuple[str, str], Fraction]:
    """Return, by line and month, what is earned: day by day, as exact fractions. Knows nothing of entries."""
    last_of_period = (paper.invoice.period_end - timedelta(days=1)).date()
    document_day = min(paper.invoice.issued_at.date(), last_of_period)
    earned: defaultdict[tuple[str, str], Fraction] = defaultdict(Fraction)
    for line, taxed in zip(paper.invoice.lines, paper.taxed.lines, strict=True):
        if line.price_type != "flat":
            earned[line.line_id, f"{document_day:%Y-%m}"] += Fraction(taxed.net)
            continue
        zone = ZoneInfo(line.plan.removeprefix("in "))
        first, beyond = line.service_start.astimezone(zone).date(), line.service_end.astimezone(zone).date()
        all_days = [first + timedelta(days=at) for at in range((beyond - first).days)]
        for day in all_days:
            earned[line.line_id, max(f"{day:%Y-%m}", f"{document_day:%Y-%m}")] += Fraction(taxed.net) / len(all_days)
    return earned


@st.composite
def papers(draw: st.DrawFn) -> Paper:
    currency = draw(st.sampled_from(sorted(CURRENCIES)))
    digits = CURRENCIES[currency]

    def amount(most: int) -> st.SearchStrategy[Decimal]:
        return st.integers(-most, most).map(lambda units: Decimal(units).scaleb(-digits))

    month = draw(st.integers(1, 12))
    start = date(2026, month, 1)
    period = (start, (start + timedelta(days=31)).replace(day=1))
    issued = midnight(start, "UTC") + timedelta(days=draw(st.integers(0, 70)))
    lines = [
        line_of(
            number,
            draw(st.sampled_from(ZONES)),
            draw(st.sampled_from(["flat", "usage", "correction"])),
            start + timedelta(days=draw(st.integers(-60, 40))),
            draw(st.integers(1, 400)),
            draw(amount(10**9)),
            currency,
        )
        for number in range(1, draw(st.integers(2, 5)))
    ]
    burns = []
    for line in lines[: draw(st.integers(0, 2))]:
        burned = draw(amount(abs(int(line.amount.scaleb(digits)))))
        burns.append(
            (
                line.line_id,
                burned,
                draw(st.sampled_from([burned, Decimal(0), burned.quantize(Decimal(1).scaleb(-digits))])),
            )
        )
    taxes = draw(
        st.sampled_from(
            [[], [{"name": "VAT", "percent": "19"}], [{"name": "A", "percent": "7.25"}, {"name": "B", "percent": "1"}]]
        )
    )
    return paper_of(lines, period=period, issued=issued, burns=burns, taxes=taxes)


def check_journal(paper: Paper) -> None:
    rows = legs([paper])
    by_entry: defaultdict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for row in rows:
        assert (row["debit"] > 0) != (row["credit"] > 0)
        assert min(row["debit"], row["credit"]) == 0
        by_entry[row["entry_id"], row["currency"]] += row["debit"] - row["credit"]
    assert set(by_entry.values()) <= {Decimal(0)}
    assert balance_of(rows, "receivables") == paper.payable
    assert balance_of(rows, "tax") == -paper.tax
    assert balance_of(rows, "prepaid_balances", "promotions") == paper.prepaid
    assert balance_of(rows, "prepaid_balances") == sum(paper.burns_paid, Decimal(0))
    assert balance_of(rows, "revenue") == -paper.net
    # What is accrued is taken back, and what is deferred is released: both end at nothing.
    assert balance_of(rows, "unbilled_receivables") == balance_of(rows, "deferred_revenue") == 0
    exact = slow_bookkeeper(paper)
    unit = Fraction(1, 10 ** CURRENCIES[paper.invoice.currency])
    for (line_id, period), earned in exact.items():
        mine = [row for row in rows if row["line_id"] == line_id]
        assert abs(Fraction(-balance_of(mine, "revenue", period=period)) - earned) < unit
    assert {row["period"] for row in rows if row["account"] == "revenue"} <= {period for _, period in exact}
    # Nothing is posted before the document's own month.
    first = min(paper.issue_date, paper.invoice.period_end.date() - timedelta(days=1))
    assert all(row["date"] >= first for row in rows)


@settings(max_examples=60, deadline=None)
@given(papers())
def test_every_entry_balances_and_earns_what_a_slow_bookkeeper_says(paper: Paper) -> None:
    check_journal(paper)


@pytest.mark.prove
@settings(max_examples=1_500, deadline=None)
@given(papers())
def test_every_entry_balances_at_length(paper: Paper) -> None:
    check_journal(paper)


def told(rows: list[Row]) -> list[tuple[str, str, str, str, str]]:
    return [
        (
            row["kind"],
            row["date"].isoformat(),
            row["account"],
            str(row["debit"].normalize()),
            str(row["credit"].normalize()),
        )
        for row in rows
    ]


def test_a_month_invoiced_after_its_end_is_accrued_in_it_and_the_document_takes_it_back() -> None:
    paper = paper_of(
        [line_of(1, "UTC", "usage", date(2026, 10, 1), 31, Decimal("100.00"))],
        taxes=[{"name": "VAT", "percent": "19"}],
        burns=[("line-1", Decimal("30.00"), Decimal("20.00"))],
    )
    rows = legs([paper])
    assert told(rows) == [
        ("accrual", "2026-10-31", "unbilled_receivables", "1E+2", "0"),
        ("accrual", "2026-10-31", "revenue", "0", "1E+2"),
        ("document", "2026-11-01", "receivables", "89", "0"),
        ("document", "2026-11-01", "prepaid_balances", "2E+1", "0"),
        ("document", "2026-11-01", "promotions", "1E+1", "0"),
        ("document", "2026-11-01", "unbilled_receivables", "0", "1E+2"),
        ("document", "2026-11-01", "tax", "0", "19"),
    ]
    assert [row["reverses_entry_id"] for row in rows if row["reverses_entry_id"]] == [rows[0]["entry_id"]]
    assert len({row["entry_id"] for row in rows}) == 2


def test_a_fee_in_advance_is_deferred_and_released_month_by_month() -> None:
    """A quarter of 92 days for 92.00, invoiced on its first day."""
    paper = paper_of(
        [line_of(1, "Asia/Tokyo", "flat", date(2026, 10, 1), 92, Decimal("92.00"))],
        issued=datetime(2026, 10, 1, 6, tzinfo=UTC),
        period=(date(2026, 10, 1), date(2027, 1, 1)),
    )
    assert told(legs([paper])) == [
        ("document", "2026-10-01", "receivables", "92", "0"),
        ("document", "2026-10-01", "revenue", "0", "31"),
        ("document", "2026-10-01", "deferred_revenue", "0", "61"),
        ("release", "2026-11-30", "deferred_revenue", "3E+1", "0"),
        ("release", "2026-11-30", "revenue", "0", "3E+1"),
        ("release", "2026-12-31", "deferred_revenue", "31", "0"),
        ("release", "2026-12-31", "revenue", "0", "31"),
    ]


def test_a_credit_mirrors_what_it_takes_back() -> None:
    line = line_of(1, "UTC", "correction", date(2026, 10, 1), 31, Decimal("-8.00"))
    found = (date(2026, 11, 1), date(2026, 12, 1))
    assert told(legs([paper_of([line], period=found, issued=datetime(2026, 11, 10, tzinfo=UTC))])) == [
        ("document", "2026-11-10", "receivables", "0", "8"),
        ("document", "2026-11-10", "revenue", "8", "0"),
    ]


def test_ids_are_of_the_content_and_drafts_post_nothing() -> None:
    lines = [line_of(1, "UTC", "usage", date(2026, 10, 1), 31, Decimal("8.00"))]
    one, two = paper_of(lines, name="1"), paper_of(lines, name="2")
    rows = legs([one, two])
    assert legs([two, one]) == rows
    assert {row["entry_id"] for row in legs([one])} < {row["entry_id"] for row in rows}
    assert len({(row["entry_id"], row["line_no"]) for row in rows}) == len(rows)
    dearer = paper_of([line_of(1, "UTC", "usage", date(2026, 10, 1), 31, Decimal("8.01"))], name="1")
    assert not {row["entry_id"] for row in legs([dearer])} & {row["entry_id"] for row in rows}
    assert legs([paper_of(lines, status="draft")]) == []


def test_the_summary_adds_up_the_entries() -> None:
    lines = [line_of(number, "UTC", "usage", date(2026, 10, 1), 31, Decimal(number)) for number in (1, 2, 3)]
    credit = paper_of([line_of(1, "UTC", "usage", date(2026, 10, 1), 31, Decimal(-5))], name="2")
    journal = journal_of([paper_of(lines), credit], UNMAPPED)
    summary = journal.summary.to_pylist()
    assert [
        (str(row["date"]), row["account"], int(row["debit"]), int(row["credit"]), row["legs"]) for row in summary
    ] == [
        ("2026-10-31", "revenue", 5, 0, 1),
        ("2026-10-31", "unbilled_receivables", 6, 0, 3),
        ("2026-10-31", "revenue", 0, 6, 3),
        ("2026-10-31", "unbilled_receivables", 0, 5, 1),
        ("2026-11-01", "receivables", 6, 0, 1),
        ("2026-11-01", "unbilled_receivables", 5, 0, 1),
        ("2026-11-01", "receivables", 0, 5, 1),
        ("2026-11-01", "unbilled_receivables", 0, 6, 3),
    ]
    assert len({row["entry_id"] for row in summary}) == 2


def test_the_account_that_says_most_is_posted_to() -> None:
    accounts = [
        {"id": "a", "role": "revenue", "number": "4000"},
        {"id": "b", "role": "revenue", "number": "4010", "plan": "pro"},
        {"id": "c", "role": "revenue", "number": "4011", "plan": "pro", "price": "seats", "department": "sales"},
        {"id": "d", "role": "revenue", "number": "4020", "meter": "tokens"},
        {"id": "e", "role": "tax", "number": "2200", "tax": "VAT"},
    ]
    ledger = LedgerMap([LedgerAccount.model_validate(one) for one in accounts])
    asked = [
        ledger.account_of("revenue", plan="free"),
        ledger.account_of("revenue", plan="pro", price="fee"),
        ledger.account_of("revenue", plan="pro", price="seats"),
        ledger.account_of("revenue", plan="pro", price="x", meter="tokens"),
        ledger.account_of("revenue", plan="free", meter="tokens"),
        ledger.account_of("tax", tax="VAT"),
        ledger.account_of("tax", tax="levy"),
        ledger.account_of("receivables"),
    ]
    assert [one.number for one in asked] == ["4000", "4010", "4011", "4010", "4020", "2200", "tax", "receivables"]
    assert asked[2].department == "sales"
    assert [one.entry_id is None for one in asked[-2:]] == [True, True]
    assert {UNMAPPED.account_of(role).number for role in ROLES} == set(ROLES)
