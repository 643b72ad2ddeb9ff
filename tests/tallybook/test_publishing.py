"""From the books to published papers: seller, due date, taxes, prepaid balances, and what a credit note corrects."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from billing_adapters.file_adapter import read_manifest, verify_published
from metering.clock import FixedClock
from rating.errors import CatalogInvalid
from tallybook import Workspace
from tallybook.questions import ask_lint
from tests.tallybook.shop import CATALOG, USAGE, import_text, open_shop
from tests.tallybook.test_cli import run
from tests.tallybook.test_documents import PRO

PARTIES = (
    CATALOG.replace(
        '{id: acme-inc, name: "Acme, Inc.", tenants: [acme]}',
        """{id: acme-inc, name: "Acme, Inc.", tenants: [acme], vat_id: US-1, purchase_order: PO-7, payment_days: 30,
     address: {city: Springfield, country: US},
     taxes: [{name: State, percent: "6.25"}, {name: City, percent: "1", codes: [fee]}]}""",
    )
    + """
sellers:
  - {id: house, name: House GmbH, payment_days: 14}
balances:
  - {id: mixed, account: acme-inc, currency: USD, amount: "30.00", paid: "20.00", effective: "2026-10-01"}
"""
)


def set_catalog(workspace: Workspace, text: str) -> None:
    (workspace.layout.catalog / "shop.yaml").write_text(text, encoding="utf-8")
    workspace.apply()


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_register_names_seller_taxes_due_dates_and_what_a_credit_note_corrects(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        set_catalog(workspace, PARTIES)
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10", final=True)
        october = workspace.publish("2026-10")
        acme = next(one for one in rows(october, "invoice_register") if one["account_id"] == "acme-inc")
        # 55.75 sold; 6.25 % of it are 3.484375. The City taxes only prices with the code fee, and there is none.
        assert [acme[f"amount_{name}"] for name in ("net", "tax", "gross", "prepaid", "payable")] == [
            "55.75", "3.48", "59.23", "30.00", "29.23",
        ]  # fmt: skip
        assert [acme[name] for name in ("entity", "issue_date", "due_date", "purchase_order", "account_country")] == [
            "house", "2026-11-01", "2026-12-01", "PO-7", "US",
        ]  # fmt: skip
        globex = next(one for one in rows(october, "invoice_register") if one["account_id"] == "globex")
        assert (globex["due_date"], globex["amount_tax"], globex["corrects_numbers"]) == ("2026-11-15", "0.00", None)
        burns = [(one["amount"], one["paid_amount"]) for one in rows(october, "prepaid_burns")]
        assert burns == [("30.00", "20.00")]
        second = PRO.replace("version: 1", "version: 2").replace('"49.00"', '"40.00"')
        changed = PARTIES.replace("accounts:", second + "accounts:").replace(
            "tenant: acme, plan: pro, version: 1", "tenant: acme, plan: pro, version: 2"
        )
        set_catalog(workspace, changed)
        workspace.clock = FixedClock(datetime(2026, 11, 10, tzinfo=UTC))
        [credit] = workspace.correct().invoices
        [note] = rows(workspace.publish("2026-11"), "invoice_register")
        assert (note["document_type"], note["number"]) == ("credit note", credit.number)
        assert json.loads(note["corrects_numbers"]) == [acme["number"]]
        # The credit gives back to the balance: 9.00 of 30.00, of which 20.00 had been paid for.
        assert [note[f"amount_{name}"] for name in ("net", "tax", "prepaid", "payable")] == [
            "-9.00", "-0.56", "-9.00", "-0.56",
        ]  # fmt: skip
        assert note["due_date"] is None
        # The fee of October was worth 49.00 and is worth 40.00, of the same units: its terms changed.
        assert rows(october, "rated_changes") == []
        [change] = rows(workspace.publish("2026-11"), "rated_changes")
        assert [change[name] for name in ("amount_before", "amount_after", "amount_change", "reason")] == [
            "49.00", "40.00", "-9.00", "terms",
        ]  # fmt: skip
        assert [change[name] for name in ("before_number", "before_snapshot_id", "snapshot_id", "number")] == [
            acme["number"], acme["snapshot_id"], note["snapshot_id"], credit.number,
        ]  # fmt: skip
        assert [(one["amount"], one["paid_amount"]) for one in rows(workspace.publish("2026-11"), "prepaid_burns")] == [
            ("-9.00", "-6.00")
        ]
        # What was published stays what it was, whatever the catalog says by now.
        assert workspace.publish("2026-10") == october


def test_what_changed_of_an_earlier_period_is_told_before_and_after(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10", final=True)
        first = {one["line_id"]: one for one in rows(workspace.publish("2026-10"), "invoice_lines")}
        head = "tenant_id,meter,quantity,event_time,idempotency_key,direction"
        import_text(workspace, "late.csv", f"{head}\nacme,tokens,1000000,2026-10-30T10:00:00Z,l1,output\n")
        workspace.clock = FixedClock(datetime(2026, 11, 10, tzinfo=UTC))
        [supplement] = workspace.correct().invoices
        folder = workspace.publish("2026-11")
        changes = rows(folder, "rated_changes")
        assert [one["line_id"] for one in changes] == [line.line_id for line in supplement.lines]
        for one, line in zip(changes, supplement.lines, strict=True):
            [before] = [
                old for old in first.values()
                if (old["subscription_id"], old["price_id"], old["attributes"])
                == (line.subscription_id, line.price_id, line.group_key or None)
            ]  # fmt: skip
            assert (one["quantity_before"], one["amount_before"]) == (before["quantity"], before["amount"])
            assert Decimal(one["quantity_after"]) == Decimal(one["quantity_before"]) + 1_000_000
            assert Decimal(one["amount_after"]) - Decimal(one["amount_before"]) == line.amount
            assert one["reason"] == "usage"
        [tie] = [one for one in rows(folder, "tie_outs") if one["control_id"] == "CHANGES_LINES"]
        assert Decimal(tie["difference"]) == 0
        assert Decimal(tie["total_a"]) == supplement.total
        # A void of October takes nothing away from what was published; what is billed again is new then.
        workspace.void(next(iter(first.values()))["number"], why="sent to the wrong company", who="ada")
        assert workspace.publish("2026-11") == folder


def test_the_command_publishes_drafts_and_chosen_formats(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10")
    answer = run(tmp_path, "publish", "--period", "2026-10", "--format", "xlsx", "--out", str(tmp_path / "files"))
    folder = Path(answer.stdout.strip())
    assert answer.returncode == 0
    assert folder.parent == tmp_path / "files"
    assert {file["format"] for file in read_manifest(folder)["files"]} == {"xlsx"}
    assert verify_published(folder)
    assert run(tmp_path, "publish", "--period", "2026-10", "--format", "pdf").returncode == 2
    assert run(tmp_path, "publish", "--period", "2026-09").returncode == 2


def test_the_settings_say_which_formats(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        workspace.layout.settings_file.write_text('[files]\nformats = ["parquet"]\n', encoding="utf-8")
    with Workspace(tmp_path, clock=workspace.clock) as again:
        again.invoice("2026-10")
        assert {file["format"] for file in read_manifest(again.publish("2026-10"))["files"]} == {"parquet"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("seller: hous", "did you mean"),
        ("", "several sellers may invoice it; write seller: house or other"),
    ],
)
def test_an_account_names_a_seller_that_there_is(tmp_path: Path, change: str, said: str) -> None:
    with open_shop(tmp_path) as workspace:
        text = PARTIES.replace("sellers:\n", "sellers:\n  - {id: other, name: Other}\n")
        text = text.replace("name: Globex,", f"name: Globex, {change}," if change else "name: Globex,")
        text = text.replace('name: "Acme, Inc.",', 'name: "Acme, Inc.", seller: house,')
        with pytest.raises(CatalogInvalid) as refused:
            set_catalog(workspace, text)
        assert [one for one in refused.value.mistakes if said in one.message]


LEDGER = """
ledger_accounts:
  - {id: rec, role: receivables, number: "1400"}
  - {id: unbilled, role: unbilled_receivables, number: "1410"}
  - {id: calls, role: revenue, number: "4410", price: calls}
"""


def test_a_mapping_of_accounts_is_posted_to_and_lint_names_what_it_lacks(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        set_catalog(workspace, PARTIES)
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10", final=True)
        before = rows(workspace.publish("2026-10"), "journal_entries")
        assert ask_lint(workspace) == [one for one in ask_lint(workspace) if one.finding.code != "ledger_unmapped"]
        set_catalog(workspace, PARTIES + LEDGER)
        after = rows(workspace.publish("2026-10"), "journal_entries")
        # The mapping of today, the entries of then.
        assert [(one["entry_id"], one["debit"], one["credit"]) for one in sorted(after, key=leg)] == [
            (one["entry_id"], one["debit"], one["credit"]) for one in sorted(before, key=leg)
        ]
        calls = {one["account"] for one in after if one["product"] == "calls" and one["kind"] == "accrual"}
        assert calls == {"1410", "4410"}
        lines = rows(workspace.publish("2026-10"), "invoice_lines")
        assert {one["revenue_account"] for one in lines} == {"4410", "revenue"}
        unmapped = [one.finding for one in ask_lint(workspace) if one.finding.code == "ledger_unmapped"]
        assert {one.price_id for one in unmapped if one.price_id} == {"fee", "tokens_out"}
        said = " ".join(one.message for one in unmapped)
        assert all(role in said for role in ("deferred_revenue", "prepaid_balances", "promotions", "'State'", "'City'"))
        assert "role receivables" not in said


def leg(row: dict[str, Any]) -> tuple[str, str, str, str]:
    return row["entry_id"], row["line_id"] or "", row["debit"], row["credit"]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{id: x, role: revenue, number: '1', plan: por}", "there is no plan 'por' that this could be for"),
        ("{id: x, role: revenue, number: '1', price: call}", "did you mean 'calls'?"),
        ("{id: x, role: revenue, number: '1', seller: nobody}", "there is no seller 'nobody'"),
        ("{id: x, role: revenue, number: '9', price: calls}", "'calls' is for the very same amounts"),
        ("{id: x, role: revenu, number: '1'}", "revenue"),
    ],
)
def test_a_ledger_account_is_for_what_there_is(tmp_path: Path, entry: str, said: str) -> None:
    with open_shop(tmp_path) as workspace, pytest.raises(CatalogInvalid) as refused:
        set_catalog(workspace, PARTIES + LEDGER + f"  - {entry}\n")
    assert [one for one in refused.value.mistakes if said in one.message]
