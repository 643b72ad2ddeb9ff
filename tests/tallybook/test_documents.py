"""Prepaid balances, credit notes and threshold invoices, through the workspace: what the books say, and what verify says."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from metering.clock import FixedClock
from rating.errors import NotFound
from rating.invoice import Invoice
from rating.tax import FixedRates, TaxRate
from tallybook import Workspace
from tests.tallybook.shop import CATALOG, DECEMBER, LATE, NOVEMBER, USAGE, import_text, open_shop
from tests.tallybook.test_cli import ask, run

BALANCES = """
balances:
  - {id: starter, account: acme-inc, currency: USD, amount: "50.00", effective: "2026-10-01", expires: "2026-12-01"}
  - {id: gift, account: acme-inc, currency: USD, amount: "8.00", paid: "0", effective: "2026-01-01", priority: 1}
"""


PRO = CATALOG[CATALOG.index("  - name: pro") : CATALOG.index("accounts:")]


def add_to_catalog(workspace: Workspace, text: str) -> None:
    (workspace.layout.catalog / "more.yaml").write_text(text, encoding="utf-8")
    workspace.apply()


def of_account(invoices: list[Invoice], account_id: str) -> Invoice:
    return next(one for one in invoices if one.account_id == account_id)


def paid(invoice: Invoice) -> list[tuple[str, str, str]]:
    prices = {line.line_id: line.price_id for line in invoice.lines}
    return [(prices[one.line_id], one.balance_id, str(one.amount)) for one in invoice.prepaid]


def test_balances_pay_in_their_order_once_and_verify_recomputes_it(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        add_to_catalog(workspace, BALANCES)
        import_text(workspace, "usage.csv", USAGE)
        drafts = workspace.invoice("2026-10").invoices
        final = workspace.invoice("2026-10", final=True).invoices
        acme = of_account(final, "acme-inc")
        assert paid(acme) == [("fee", "gift", "8.00"), ("fee", "starter", "41.00"), ("tokens_out", "starter", "6.25"),
                              ("calls", "starter", "0.50")]  # fmt: skip
        assert (str(acme.total), str(acme.amount_due)) == ("55.75", "0.00")
        assert paid(of_account(drafts, "acme-inc")) == paid(acme)
        assert of_account(workspace.invoices("2026-10"), "acme-inc") == acme
        globex = of_account(final, "globex")
        assert (globex.prepaid, globex.amount_due) == ((), globex.total)
        workspace.clock = FixedClock(DECEMBER)
        november = of_account(workspace.invoice("2026-11", final=True).invoices, "acme-inc")
        # 2.25 were left; the balance was in force in November.
        assert paid(november) == [("fee", "starter", "2.25")]
        assert str(november.amount_due) == "46.75"
        assert all(one.matches for one in workspace.verify())
        states = workspace.balances()
        assert {one.balance_id: (str(one.burned), str(one.left), str(one.recognized)) for one in states} == {
            "starter": ("50.00", "0.00", "50.00"), "gift": ("8.00", "0.00", "0.00"),
        }  # fmt: skip


def test_what_is_found_late_becomes_a_supplementary_invoice_at_once(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10", final=True)
        assert workspace.correct().invoices == []
        import_text(workspace, "late.csv", LATE)
        workspace.clock = FixedClock(datetime(2026, 11, 10, tzinfo=UTC))
        [made] = workspace.correct().invoices
        assert (made.document_type, made.number, str(made.total)) == ("supplementary_invoice", "INV-00000003", "1.00")
        # Found in November, for October.
        assert (f"{made.period_start:%Y-%m}", f"{made.lines[0].period_start:%Y-%m}") == ("2026-11", "2026-10")
        assert workspace.correct().invoices == []
        workspace.clock = FixedClock(DECEMBER)
        november = workspace.invoice("2026-11", final=True)
        assert november.is_complete
        assert {line.kind for one in november.invoices for line in one.lines} == {"flat"}
        assert all(one.matches for one in workspace.verify())


def test_a_corrected_price_credits_what_was_invoiced_and_gives_back_to_the_balance(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        add_to_catalog(workspace, BALANCES)
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10", final=True)
        second = PRO.replace("version: 1", "version: 2").replace('"0.0125"', '"0.0025"')
        corrected = CATALOG.replace("accounts:", second + "accounts:").replace(
            "tenant: acme, plan: pro, version: 1", "tenant: acme, plan: pro, version: 2"
        )
        (workspace.layout.catalog / "shop.yaml").write_text(corrected, encoding="utf-8")
        workspace.apply()
        [credit] = workspace.correct().invoices
        assert (credit.document_type, credit.number, str(credit.total)) == ("credit_note", "CN-00000001", "-5.00")
        [line] = credit.lines
        assert [(str(one.unit_price), str(one.exact_amount.normalize())) for one in line.charges] == [
            ("0.002500000000", "1.25"), ("0.012500000000", "-6.25"),
        ]  # fmt: skip
        assert paid(credit) == [("tokens_out", "starter", "-5.00")]
        assert credit.amount_due == 0
        assert all(one.matches for one in workspace.verify())
        workspace.clock = FixedClock(DECEMBER)
        november = of_account(workspace.invoice("2026-11", final=True).invoices, "acme-inc")
        assert paid(november) == [("fee", "starter", "7.25")]


@pytest.mark.parametrize("thresholds", ['{amounts: ["50"]}', '{every: "50"}'])
def test_an_account_over_its_threshold_is_invoiced_and_no_other(tmp_path: Path, thresholds: str) -> None:
    with open_shop(tmp_path, now=NOVEMBER.replace(month=10, day=20)) as workspace:
        catalog = CATALOG.replace('name: "Acme, Inc.",', f'name: "Acme, Inc.", invoice_thresholds: {thresholds},')
        (workspace.layout.catalog / "shop.yaml").write_text(catalog, encoding="utf-8")
        workspace.apply()
        assert workspace.invoice_thresholds().invoices == []
        import_text(workspace, "usage.csv", USAGE)
        [early] = workspace.invoice_thresholds().invoices
        assert (early.account_id, str(early.total)) == ("acme-inc", "55.75")
        assert workspace.invoice_thresholds().invoices == []
        import_text(workspace, "late.csv", LATE)
        # 1.00 more reaches nothing; it comes with the close, and so does all of the other account.
        assert workspace.invoice_thresholds().invoices == []
        workspace.clock = FixedClock(NOVEMBER)
        closed = workspace.invoice("2026-10", final=True).invoices
        assert str(of_account(closed, "acme-inc").total) == "1.00"
        assert sum((line.amount for line in of_account(closed, "globex").lines), Decimal(0)) == Decimal("25.29")
        assert all(one.matches for one in workspace.verify())
        assert workspace.reconcile("2026-10").is_conserved


@pytest.mark.parametrize(("days", "is_billed"), [(None, True), ("9", True), ("8", False), ("0", False)])
def test_usage_recorded_too_late_is_refused_and_counted(tmp_path: Path, days: str | None, is_billed: bool) -> None:
    with open_shop(tmp_path) as workspace:
        if days is not None:
            strict = CATALOG.replace("version: 1\n", f"version: 1\n    late_usage_days: {days}\n")
            strict = strict.replace("- name: pro", "- name: strict").replace("plan: pro,", "plan: strict,")
            # The plan that was in use stays.
            (workspace.layout.catalog / "shop.yaml").write_text(strict.replace("accounts:", PRO + "accounts:"), "utf-8")
            workspace.apply()
        workspace.clock = FixedClock(datetime(2026, 10, 31, tzinfo=UTC))
        import_text(workspace, "usage.csv", USAGE)
        workspace.clock = FixedClock(NOVEMBER)
        workspace.invoice("2026-10", final=True)
        # Eight days after the end of October is the ninth of November, 00:00; this is told three hours later.
        workspace.clock = FixedClock(datetime(2026, 11, 9, 3, tzinfo=UTC))
        import_text(workspace, "late.csv", LATE)
        assert [str(one.total) for one in workspace.correct().invoices] == (["1.00"] if is_billed else [])
        statement = workspace.reconcile("2026-10")
        assert statement.is_conserved
        refused = [one for one in statement.findings if one.control_id == "LATE_USAGE_REFUSED"]
        assert [(one.tenant_id, one.rows, str(one.quantity_difference)) for one in refused] == (
            [] if is_billed else [("acme", 1, "80.000000000")]
        )
        assert all(one.matches for one in workspace.verify())


def test_an_invoice_of_the_books_is_taxed_by_a_calculator_of_yours(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        acme = of_account(workspace.invoice("2026-10", final=True).invoices, "acme-inc")
        taxed = workspace.taxes(acme.invoice_id, FixedRates({}, [TaxRate("VAT", Decimal(20))]))
        assert (str(taxed.net), str(taxed.tax), str(taxed.gross)) == ("55.75", "11.15", "66.90")
        with pytest.raises(NotFound):
            workspace.taxes("inv-none", FixedRates({}))


def test_the_commands_say_what_was_booked_and_what_is_left(tmp_path: Path) -> None:
    with open_shop(tmp_path, now=datetime(2026, 10, 20, tzinfo=UTC)) as workspace:
        add_to_catalog(workspace, BALANCES)
        import_text(workspace, "usage.csv", USAGE)
        workspace.clock = FixedClock(NOVEMBER)
        workspace.invoice("2026-10", final=True)
    for command, said in (("correct", "Nothing was found late"), ("thresholds", "No account reached a threshold")):
        answer = run(tmp_path, command)
        assert (answer.returncode, answer.stdout) == (0, "")
        assert said in answer.stderr
    shown = run(tmp_path, "balances", "--account", "acme-inc").stdout
    assert [line.split() for line in shown.splitlines() if line.strip().startswith("gift")] == [
        ["gift", "acme-inc", "8.00", "8.00", "0.00", "0.00", "0.00", "USD"]
    ]
    assert [one["burned"] for one in ask(tmp_path, "balances")["balances"]] == ["8.00", "47.75"]
    assert "amount due" in run(tmp_path, "invoices").stdout
