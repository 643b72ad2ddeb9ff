"""Roll-forwards against a bookkeeper who knows documents and days only: late events, credit notes, voids, balances, payments."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

from billing_adapters.payments import Payment, keep_payment
from metering.clock import FixedClock
from rating.invoice import Invoice
from tests.tallybook.shop import DECEMBER, LATE, USAGE, import_text, open_shop
from tests.tallybook.test_delivery import void_first_usage
from tests.tallybook.test_publishing import PARTIES, rows, set_catalog

QUARTERLY = """
  - name: quarterly
    version: 1
    currency: USD
    billing_period: {every: quarter, anchor: "2026-10-01", timezone: UTC}
    prices:
      - {id: licence, type: flat, amount: "92.00"}
"""
WORLD = (
    PARTIES.replace("accounts:", QUARTERLY + "accounts:", 1)
    .replace("subscriptions:", "  - {id: initech, name: Initech, tenants: [initech]}\nsubscriptions:", 1)
    .replace(
        "subscriptions:",
        'subscriptions:\n  - {id: sub-initech, tenant: initech, plan: quarterly, version: 1, from: "2026-10-01"}',
        1,
    )
)
QUARTER = "2026-10-01..2027-01-01"
JANUARY = datetime(2027, 1, 1, 3, tzinfo=UTC)
Months = dict[tuple[str, str], Fraction]


def month_of(day: date) -> str:
    return f"{day:%Y-%m}"


def slow_bookkeeper(documents: Sequence[Invoice], voided: Mapping[str, date]) -> tuple[Months, Months]:
    """Return what moves unbilled and deferred by account and month: each fee day by day. Plans are in UTC, taxes come on top."""
    unbilled: defaultdict[tuple[str, str], Fraction] = defaultdict(Fraction)
    deferred: defaultdict[tuple[str, str], Fraction] = defaultdict(Fraction)
    for one in documents:
        issued = one.issued_at.date()
        own = month_of(min(issued, (one.period_end - timedelta(days=1)).date()))
        for line in one.lines:
            now, later = Fraction(line.amount), defaultdict[str, Fraction](Fraction)
            if line.price_type == "flat":
                days = (line.service_end - line.service_start).days
                for at in range(days):
                    month = month_of((line.service_start + timedelta(days=at)).date())
                    if month > own:
                        later[month] += Fraction(line.amount) / days
                        now -= Fraction(line.amount) / days
            if own < month_of(issued):
                unbilled[one.account_id, own] += now
                unbilled[one.account_id, month_of(issued)] -= now
            deferred[one.account_id, month_of(issued)] += sum(later.values(), Fraction(0))
            gone = month_of(voided[one.invoice_id]) if one.invoice_id in voided else "9999-99"
            for month, amount in later.items():
                # What was not earned by the void is not to be earned any more.
                deferred[one.account_id, min(month, gone)] -= amount
    return unbilled, deferred


def check(folder: Path, documents: Sequence[Invoice], voided: Mapping[str, date]) -> list[dict[str, Any]]:
    """Compare both roll-forwards with the bookkeeper, row for row, and return the rows."""
    seen: list[dict[str, Any]] = []
    entries = rows(folder, "journal_entries")
    for name, role, moved, movements in zip(
        ("unbilled_roll_forward", "deferred_roll_forward"),
        ("unbilled_receivables", "deferred_revenue"),
        slow_bookkeeper([one for one in documents if one.status != "draft"], voided),
        (("accrued", "invoiced"), ("deferred", "released", "voided")),
        strict=True,
    ):
        found = {(row["account_id"], row["period"]): row for row in rows(folder, name)}
        assert len(found) == len(rows(folder, name))
        months = {month for _, month in found} | {row["period"] for row in entries}
        first, last = min(months), max(months)
        for account, month in {(account, month) for account, _ in moved for month in months if first <= month <= last}:
            before = sum(
                (amount for (who, when), amount in moved.items() if who == account and when < month), Fraction(0)
            )
            moves = moved.get((account, month), Fraction(0))
            row = found.pop((account, month), None)
            if row is None:
                assert (before, moves) == (0, 0), (name, account, month)
                continue
            seen.append({**row, "file": name})
            assert Decimal(row["opening"]) == before, (name, row)
            assert sum((Decimal(row[one]) for one in movements), Decimal(0)) == moves, (name, row)
            assert Decimal(row["closing"]) == before + moves, (name, row)
            legs = [
                Decimal(leg["debit"]) - Decimal(leg["credit"])
                for leg in entries
                if (leg["role"], leg["account_id"], leg["period"]) == (role, account, month)
            ]
            own = sum(legs, Decimal(0))
            assert Decimal(row["of_this_run"]) == (own if role == "unbilled_receivables" else -own), (name, row)
        assert not found
    assert {row["difference"] for row in rows(folder, "tie_outs")} == {"0"}
    return seen


def test_openings_movements_and_closings_are_those_of_a_bookkeeper_of_days(tmp_path: Path) -> None:
    voided: dict[str, date] = {}
    with open_shop(tmp_path) as workspace:

        def publish(period: str) -> Path:
            return workspace.publish(period, formats=["jsonl"])

        set_catalog(workspace, WORLD)
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10", final=True)
        check(publish("2026-10"), workspace.invoices(), voided)
        # An early cut of the quarter bills its licence before December, where it ends.
        workspace.invoice(QUARTER, final=True)
        seen = check(publish(QUARTER), workspace.invoices(), voided)
        licence = [
            (row["period"], row["opening"], row["deferred"], row["released"], row["closing"])
            for row in sorted(seen, key=lambda row: row["period"])
            if (row["file"], row["account_id"]) == ("deferred_roll_forward", "initech")
        ]
        assert licence == [
            ("2026-11", "0.00", "31.00", "0.00", "31.00"),
            ("2026-12", "31.00", "0.00", "-31.00", "0.00"),
        ]
        # A void and what was found late: both documents of November, before November is over.
        workspace.clock = FixedClock(datetime(2026, 11, 10, tzinfo=UTC))
        import_text(workspace, "late.csv", LATE)
        gone = next(one for one in workspace.invoices() if one.account_id == "initech")
        workspace.void(gone.invoice_id, who="ann", why="wrong address")
        voided[gone.invoice_id] = date(2026, 11, 10)
        october, quarter = publish("2026-10"), publish(QUARTER)
        check(quarter, workspace.invoices(), voided)
        assert workspace.correct().invoices
        check(publish("2026-11"), workspace.invoices(), voided)
        # A credit note, and money that came: a reading of today is in no file, so that a run stays what it was.
        workspace.clock = FixedClock(DECEMBER)
        workspace.invoice("2026-11", final=True)
        november = publish("2026-11")
        check(november, workspace.invoices(), voided)
        void_first_usage(workspace)
        assert [one.document_type for one in workspace.correct().invoices] == ["credit_note"]
        check(publish("2026-12"), workspace.invoices(), voided)
        with workspace.books.begin() as connection:
            keep_payment(connection, paid(workspace.invoices()[0]))
        assert (publish("2026-10"), publish(QUARTER), publish("2026-11")) == (october, quarter, november)
        workspace.clock = FixedClock(JANUARY)
        workspace.invoice("2026-12", final=True)
        december = publish("2026-12")
        seen = check(december, workspace.invoices(), voided)
        assert {row["opening"] for row in seen} > {"0.00"}
        # A later void of an earlier document is of a later run.
        workspace.clock = FixedClock(datetime(2027, 1, 5, tzinfo=UTC))
        late = next(one for one in reversed(workspace.invoices("2026-11")) if one.status == "final")
        workspace.void(late.invoice_id, who="ann", why="wrong plan")
        assert publish("2026-12") == december


def paid(invoice: Invoice) -> Payment:
    zero = invoice.total - invoice.total
    return Payment(
        "stripe", "in_1", invoice.invoice_id, "paid", "USD", invoice.total, invoice.total, invoice.total, zero, DECEMBER
    )
