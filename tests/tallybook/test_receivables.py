"""Payments in the books and the roll-forward of receivables, against a bookkeeper who knows documents, payments and days only."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from billing_adapters.errors import PaymentConflict, ProviderListRefused
from billing_adapters.file_adapter.tie_outs import CONTROLS
from billing_adapters.payments import Payment, keep_payment, readings_of
from billing_adapters.settlements import Reading, Settlement, book_readings, read_settlements
from metering.clock import FixedClock
from rating.invoice import Invoice
from tallybook import Workspace
from tallybook.cli import app
from tallybook.settling import import_payments
from tests.tallybook.shop import CATALOG, DECEMBER, LATE, NOVEMBER, USAGE, import_text, open_shop
from tests.tallybook.test_delivery import void_first_usage
from tests.tallybook.test_publishing import rows, set_catalog

JANUARY = datetime(2027, 1, 1, 3, tzinfo=UTC)
FEBRUARY = datetime(2027, 2, 1, 3, tzinfo=UTC)
MARCH = datetime(2027, 3, 1, 3, tzinfo=UTC)
HEAD = "payment_id,number,kind,amount,currency,paid_at\n"
AGES = ("not_due", "overdue_1_30", "overdue_31_60", "overdue_61_90", "overdue_above_90")
TERMS = CATALOG.replace(
    'name: "Acme, Inc.",', 'name: "Acme, Inc.", payment_days: 45, taxes: [{name: VAT, percent: "20"}],'
)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workspace]:
    with open_shop(tmp_path / "shop") as workspace:
        set_catalog(workspace, TERMS)
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10", final=True)
        yield workspace


def at(workspace: Workspace, instant: datetime) -> None:
    workspace.clock = FixedClock(instant)


def pay(workspace: Workspace, *lines: str) -> list[Settlement]:
    path = workspace.layout.root / "payments.csv"
    path.write_text(HEAD + "".join(f"{line}\n" for line in lines), encoding="utf-8")
    return import_payments(workspace, path)


def read(workspace: Workspace, invoice: Invoice, when: datetime, paid: str, **more: Any) -> list[Settlement]:
    """Say by a webhook's reading how much of an invoice was paid so far."""
    amount, due = Decimal(paid), payable(workspace, invoice)
    fields = {"status": "open", "amount_remaining": due - amount, "paid_at": None, **more}
    one = Payment("stripe", f"in_{invoice.number}", invoice.invoice_id, fields["status"], invoice.currency, due, due, amount,
                  fields["amount_remaining"], when, fields["paid_at"])  # fmt: skip
    with workspace.books.begin() as connection:
        keep_payment(connection, one)
        return book_readings(connection, readings_of([one]), now=when)


def payable(workspace: Workspace, invoice: Invoice) -> Decimal:
    """Return what a document asks for, by hand: acme-inc pays 20 % on top, each line rounded once."""
    tax = Decimal("0.20") if invoice.account_id == "acme-inc" else Decimal(0)
    exact = sum((line.amount * tax for line in invoice.lines), Decimal(0))
    return invoice.total + exact.quantize(Decimal("0.01"), rounding="ROUND_HALF_UP")


def by_number(workspace: Workspace) -> dict[str, Invoice]:
    return {one.number: one for one in workspace.invoices() if one.number is not None}


def test_an_invoice_that_stands_twice_in_a_list_is_booked_as_it_stands_last(shop: Workspace) -> None:
    one = by_number(shop)["INV-00000001"]
    said = [
        Reading("stripe", "in_twice", one.invoice_id, one.currency, {"payment": Decimal(paid)}, DECEMBER)
        for paid in ("10.00", "10.00", "25.00")
    ]
    with shop.books.begin() as connection:
        booked = book_readings(connection, said, now=DECEMBER)
        assert [(row.sequence, row.amount) for row in booked] == [(1, Decimal("10.00")), (2, Decimal("15.00"))]
        assert book_readings(connection, said[2:], now=DECEMBER) == []


class Bookkeeper:
    """Knows of documents what they ask for and when, of payments what and on which day; ages by hand, month by month."""

    def __init__(self) -> None:
        self.legs: list[tuple[str, str, date, str, Decimal]] = []  # account, document, day, what, amount
        self.due: dict[str, date] = {}

    def document(self, workspace: Workspace, one: Invoice) -> None:
        asked, day = payable(workspace, one), one.issued_at.date()
        what = "invoiced" if asked > 0 else "credited"
        self.legs.append((one.account_id, one.invoice_id, day, what, asked))
        days = 45 if one.account_id == "acme-inc" and asked > 0 else 0
        self.due[one.invoice_id] = day + timedelta(days=days)

    def other(self, one: Invoice, day: date, what: str, amount: Decimal) -> None:
        self.legs.append((one.account_id, one.invoice_id, day, what, amount))

    def month(self, account: str, period: str) -> dict[str, Decimal]:
        """Return the row of an account and month."""
        first = date.fromisoformat(f"{period}-01")
        end = (first + timedelta(days=32)).replace(day=1) - timedelta(days=1)
        row: defaultdict[str, Decimal] = defaultdict(Decimal)
        left: defaultdict[str, Decimal] = defaultdict(Decimal)
        for who, document, day, what, amount in self.legs:
            if who == account and day <= end:
                row["opening" if day < first else what] += amount
                row["closing"] += amount
                left[document] += amount
        for document, amount in left.items():
            late = (end - self.due[document]).days
            age = AGES[0] if late <= 0 else AGES[1 + min((late - 1) // 30, 3)]
            row["unapplied" if amount < 0 else age] += amount
        return row


def check(folder: Path, books: Bookkeeper) -> list[dict[str, Any]]:
    """Compare the roll-forward with the bookkeeper, row for row; return its rows."""
    found = rows(folder, "receivables_roll_forward")
    names = (
        "opening",
        "invoiced",
        "credited",
        "voided",
        "paid",
        "refunded",
        "written_off",
        "closing",
        "unapplied",
        *AGES,
    )
    for row in found:
        said = books.month(row["account_id"], row["period"])
        assert {name: Decimal(row[name]) for name in names} == {name: said[name] for name in names}, row
    ties = rows(folder, "tie_outs")
    assert {row["difference"] for row in ties} == {"0"}
    assert {"RECEIVABLES_JOURNAL", "REGISTER_JOURNAL"} <= {row["control_id"] for row in ties} <= CONTROLS.keys()
    return found


def ledger(folders: list[Path], account: str, month: str) -> Decimal:
    """Return what a general ledger has on receivables at the end of a month, that imported every entry once, by its id."""
    legs = {(leg["entry_id"], leg["line_no"]): leg for folder in folders for leg in rows(folder, "journal_entries")}
    return sum(
        (Decimal(leg["debit"]) - Decimal(leg["credit"]) for leg in legs.values()
         if leg["role"] == "receivables" and leg["account_id"] == account and leg["period"] <= month),
        Decimal(0),
    )  # fmt: skip


def publish(workspace: Workspace, period: str) -> Path:
    return workspace.publish(period, formats=["jsonl"])


def test_a_quarter_of_payments_rolls_to_the_closing_of_the_ledger(shop: Workspace) -> None:
    """Payments in part and too late, a refund, a write-off, a credit note, a void: every month ties to every journal so far."""
    books, folders = Bookkeeper(), []
    for one in by_number(shop).values():
        books.document(shop, one)
    acme, globex = by_number(shop)["INV-00000001"], by_number(shop)["INV-00000002"]
    assert (payable(shop, acme), payable(shop, globex)) == (Decimal("66.90"), Decimal("25.29"))
    folders.append(publish(shop, "2026-10"))
    check(folders[-1], books)

    # November: acme pays a part by Stripe, globex all by bank; the bank says the day, which was before anybody looked.
    at(shop, datetime(2026, 11, 20, 12, tzinfo=UTC))
    assert [one.amount for one in read(shop, acme, datetime(2026, 11, 20, 12, tzinfo=UTC), "60.00")] == [
        Decimal("60.00")
    ]
    pay(shop, "b-1,INV-00000002,payment,25.29,USD,2026-11-18")
    books.other(acme, date(2026, 11, 20), "paid", Decimal("-60.00"))
    books.other(globex, date(2026, 11, 18), "paid", Decimal("-25.29"))
    import_text(shop, "late.csv", LATE)
    at(shop, DECEMBER)
    shop.invoice("2026-11", final=True)
    for one in list(by_number(shop).values())[2:]:
        books.document(shop, one)
    folders.append(publish(shop, "2026-11"))
    assert {row["period"] for row in check(folders[-1], books)} == {"2026-11", "2026-12"}

    # December: what was paid in November and comes to light now is of December; a refund; a credit note.
    at(shop, datetime(2026, 12, 9, tzinfo=UTC))
    pay(shop, "b-2,INV-00000001,payment,6.90,USD,2026-11-30T23:00:00Z", "b-3,INV-00000002,refund,5.29,USD,2026-12-08")
    books.other(acme, date(2026, 12, 9), "paid", Decimal("-6.90"))
    books.other(globex, date(2026, 12, 8), "refunded", Decimal("5.29"))
    void_first_usage(shop)
    made = shop.correct().invoices
    assert [one.document_type for one in made] == ["credit_note"]
    for one in made:
        books.document(shop, one)
    at(shop, JANUARY)
    shop.invoice("2026-12", final=True)
    for one in shop.invoices("2026-12"):
        if one.document_type == "invoice":
            books.document(shop, one)
    folders.append(publish(shop, "2026-12"))
    december = folders[-1]
    before = {path.name: path.read_bytes() for path in december.iterdir() if path.is_file()}
    check(december, books)

    # January: what globex still owes of October is given up, one of its invoices is taken back. Nobody paid acme's of November.
    at(shop, datetime(2027, 1, 12, tzinfo=UTC))
    pay(shop, "w-1,INV-00000002,write_off,5.29,USD,2027-01-11")
    books.other(globex, date(2027, 1, 11), "written_off", Decimal("-5.29"))
    gone = next(one for one in shop.invoices("2026-11") if one.account_id == "globex")
    shop.void(str(gone.number), who="ann", why="wrong address")
    books.other(gone, date(2027, 1, 12), "voided", -payable(shop, gone))
    # A void is posted by the run of its document, published again.
    folders.append(publish(shop, "2026-11"))
    at(shop, FEBRUARY)
    shop.invoice("2027-01", final=True)
    for one in shop.invoices("2027-01"):
        books.document(shop, one)
    folders.append(publish(shop, "2027-01"))
    seen = check(folders[-1], books)
    at(shop, MARCH)
    shop.invoice("2027-02", final=True)
    for one in shop.invoices("2027-02"):
        books.document(shop, one)
    folders.append(publish(shop, "2027-02"))
    seen += check(folders[-1], books)
    assert all(any(Decimal(row[age]) for row in seen) for age in (*AGES[:4], "unapplied"))
    for row in seen:
        if row["period"] == "2027-02":
            assert Decimal(row["closing"]) == ledger(folders, row["account_id"], "2027-02"), row
    # What came later changed nothing of what was published.
    again = publish(shop, "2026-12")
    assert again == december
    assert {path.name: path.read_bytes() for path in again.iterdir() if path.is_file()} == before
    settled = {path.name: rows(path, "settlements") for path in dict.fromkeys([*folders[:1], *folders[2:]])}
    ids = [row["settlement_id"] for part in settled.values() for row in part]
    assert len(ids) == len(set(ids)) == 5, "each is in one run"
    assert {row["kind"] for part in settled.values() for row in part} == {"payment", "refund", "write_off"}


def test_a_reading_books_what_is_new_in_it_and_nothing_twice(shop: Workspace) -> None:
    acme = by_number(shop)["INV-00000001"]
    day = datetime(2026, 11, 5, tzinfo=UTC)
    paid_at = day - timedelta(hours=1)
    assert [one.amount for one in read(shop, acme, day, "10.00")] == [Decimal("10.00")]
    assert read(shop, acme, day, "10.00") == []
    (more,) = read(shop, acme, day + timedelta(hours=2), "66.90", status="paid", paid_at=paid_at)
    assert (more.amount, more.sequence, more.posted_at, more.paid_at) == (Decimal("56.90"), 2, paid_at, paid_at)
    # An older reading that comes late, and one that nobody knows.
    assert read(shop, acme, day + timedelta(hours=1), "20.00") == []
    unknown = Reading("stripe", "in_9", "invoice-of-others", "USD", {"payment": Decimal(5)}, day)
    other = Reading("stripe", "in_8", acme.invoice_id, "EUR", {"payment": Decimal(5)}, day)
    with shop.books.begin() as connection:
        assert book_readings(connection, [unknown, other], now=day) == []
    # A payment that failed after all, and what is left is given up; then it comes.
    (back,) = read(shop, acme, day + timedelta(days=1), "10.00")
    assert (back.kind, back.amount) == ("payment", Decimal("-56.90"))
    (given_up,) = read(shop, acme, day + timedelta(days=2), "10.00", status="uncollectible")
    assert (given_up.kind, given_up.amount) == ("write_off", Decimal("56.90"))
    last = read(shop, acme, day + timedelta(days=3), "66.90", status="paid")
    assert [(one.kind, one.amount) for one in last] == [("payment", Decimal("56.90")), ("write_off", Decimal("-56.90"))]


def test_a_payment_before_a_close_that_is_learnt_after_it_is_of_the_later_month(shop: Workspace) -> None:
    acme = by_number(shop)["INV-00000001"]
    (one,) = read(shop, acme, NOVEMBER + timedelta(days=4), "1.00", paid_at=NOVEMBER - timedelta(hours=4))
    assert one.posted_at == NOVEMBER + timedelta(days=4)
    # A clock that stepped back behind the close does not reach behind it either.
    (one,) = pay_at(shop, NOVEMBER - timedelta(days=3))
    assert one.posted_at == NOVEMBER


def pay_at(shop: Workspace, instant: datetime) -> list[Settlement]:
    at(shop, instant)
    return pay(shop, "p-1,INV-00000001,payment,1.00,USD,2026-10-02")


def test_a_file_of_payments_is_booked_once(shop: Workspace) -> None:
    at(shop, DECEMBER)
    line = "p-1,INV-00000001,payment,10.00,USD,2026-11-10"
    assert len(pay(shop, line)) == 1
    assert [
        one.provider_id for one in pay(shop, line, "p-2,INV-00000001,refund,1.50,USD,2026-11-11T10:00:00+01:00")
    ] == ["p-2"]
    with pytest.raises(PaymentConflict, match=r"p-1 is booked with 10\.00 USD already"):
        pay(shop, "p-3,INV-00000001,payment,1.00,USD,2026-11-10", "p-1,INV-00000001,payment,11.00,USD,2026-11-10")
    with shop.books.connect() as connection:
        assert [(one.provider_id, one.amount) for one in read_settlements(connection)] == [
            ("p-1", Decimal("10.00")), ("p-2", Decimal("-1.50")),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("p,INV-00000009,payment,1.00,USD,2026-11-10", "number 'INV-00000009' is the number of no final document"),
        ("p,INV-00000001,payment,1.00,EUR,2026-11-10", "currency 'EUR' is not that of the document"),
        ("p,INV-00000001,gift,1.00,USD,2026-11-10", "kind 'gift' is none of payment, refund, write_off"),
        ("p,INV-00000001,payment,-1.00,USD,2026-11-10", "amount '-1.00' is no plain amount"),
        ("p,INV-00000001,payment,0.00,USD,2026-11-10", "amount '0.00' is no plain amount"),
        ("p,INV-00000001,payment,1e2,USD,2026-11-10", "amount '1e2' is no plain amount"),
        ("p,INV-00000001,payment,1.001,USD,2026-11-10", "amount '1.001' is finer than USD is"),
        ("p,INV-00000001,payment,1.00,USD,2026-11-10T10:00:00", "has no time zone"),
        ("p,INV-00000001,payment,1.00,USD,yesterday", "is no ISO 8601"),
        (",INV-00000001,payment,1.00,USD,2026-11-10", "payment_id '' is no id"),
        ("p,INV-00000001,payment,1.00,USD,2026-11-10,more", "more cells than columns"),
        ('"p\nq",INV-00000001,payment,1.00,USD,2026-11-10', "is no id"),
        ("p\x01q,INV-00000001,payment,1.00,USD,2026-11-10", "is no id"),
        (" ,INV-00000001,payment,1.00,USD,2026-11-10", "is no id"),
        (f"{'p' * 201},INV-00000001,payment,1.00,USD,2026-11-10", "is no id"),
        ("p,INV-00000001,payment,1.00,USD", "is no ISO 8601"),
    ],
)
def test_a_file_with_one_bad_row_books_nothing(shop: Workspace, line: str, said: str) -> None:
    with pytest.raises(ProviderListRefused, match=f"row 2: .*{said}"):
        pay(shop, "ok,INV-00000001,payment,1.00,USD,2026-11-10", line)
    with pytest.raises(ProviderListRefused, match="is there twice"):
        pay(shop, *["ok,INV-00000001,payment,1.00,USD,2026-11-10"] * 2)
    with shop.books.connect() as connection:
        assert read_settlements(connection) == []


def test_the_command_line(shop: Workspace, tmp_path: Path) -> None:
    def run(*words: str) -> str:
        result = CliRunner().invoke(app, ["-w", str(shop.layout.root), "payments", *words], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    path = tmp_path / "bank.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [HEAD.strip().split(","), ["b-1", "INV-00000001", "payment", "5.00", "USD", "2026-11-10"]]
        )
    assert "booked 1 from" in run("import", str(path))
    assert json.loads(run("import", str(path), "--json")) == {"booked": []}
    (row,) = json.loads(run("booked", "--json"))["booked"]
    assert (row["number"], row["amount"], row["adapter"]) == ("INV-00000001", "5.00", "files")
    assert "INV-00000001" in run("booked")
    assert json.loads(run("--json")) == {"payments": []}
