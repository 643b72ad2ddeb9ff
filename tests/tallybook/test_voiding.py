"""A void from the command line to the provider and into the files: billed again, voided there, and taken back in the journal."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
import stripe

from billing_adapters.deliveries import retry
from billing_adapters.errors import DeliveryNotOpen
from billing_adapters.testing.stripe_fake import StripeFake
from billing_adapters.testing.stripe_server import serve
from metering.clock import FixedClock, SystemClock
from metering.control_points import DELIVERED, read_points
from tallybook import Workspace
from tests.tallybook.shop import DECEMBER, NOVEMBER, USAGE, import_text, open_shop
from tests.tallybook.test_delivery import run, void_first_usage
from tests.tallybook.test_publishing import PARTIES, rows, set_catalog

stripe.enable_telemetry = False


def test_a_void_stays_in_register_and_journal_and_is_billed_again(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        set_catalog(workspace, PARTIES)
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10", final=True)
        before = workspace.publish("2026-10", formats=["jsonl"])
        run(workspace, "void", "INV-00000001", "--why", " ", code=2)
        voided = workspace.void("INV-00000001", who="ann", why="=wrong address")
        # By the command line later, and again: the first void stays.
        told = run(workspace, "void", "INV-00000001", "--why", "another", "--json")
        assert told["position"] == voided.position
        assert (told["decided_by"], told["reason"]) == ("ann", "=wrong address")
        workspace.clock = FixedClock(datetime(2026, 11, 10, tzinfo=UTC))
        [again] = workspace.correct().invoices
        assert (again.document_type, again.number, str(again.total)) == (
            "supplementary_invoice",
            "INV-00000003",
            "55.75",
        )
        # The balance that had paid the void document pays again.
        assert [str(one.amount) for one in again.prepaid] == ["30.00"]
        assert [str(one.left) for one in workspace.balances()] == ["0.00"]
        assert all(one.matches for one in workspace.verify())
        assert workspace.reconcile("2026-10").is_conserved
        folder = workspace.publish("2026-10")
        replaced = workspace.publish("2026-11", formats=["jsonl"])
    assert folder != before
    register = {row["number"]: row for row in rows(folder, "invoice_register")}
    gone, other = register["INV-00000001"], register["INV-00000002"]
    assert [gone[name] for name in ("status", "amount_payable", "amount_voided", "void_reason", "lines")] == [
        "void", "0.00", "59.23", "=wrong address", 0,
    ]  # fmt: skip
    assert (other["status"], other["amount_voided"], other["voided_at"]) == ("final", "0.00", None)
    assert "'=wrong address" in (folder / "invoice_register.csv").read_text(encoding="utf-8")
    assert {row["invoice_id"] for row in rows(folder, "invoice_lines")} == {other["invoice_id"]}
    assert {
        (row["control_id"], row["difference"]) for row in rows(folder, "tie_outs") if Decimal(row["difference"])
    } == set()
    # All that the document posted is taken back, role by role; what it had posted keeps its ids.
    of_void = [row for row in rows(folder, "journal_entries") if row["number"] == "INV-00000001"]
    posted: Counter[str] = Counter()
    for row in of_void:
        posted[row["role"]] += Decimal(row["debit"]) - Decimal(row["credit"])
    assert {role: amount for role, amount in posted.items() if amount} == {}
    ids = {row["entry_id"] for row in rows(before, "journal_entries")}
    assert ids < {row["entry_id"] for row in rows(folder, "journal_entries")}
    assert {row["reverses_entry_id"] for row in of_void if row["kind"] == "void"} <= ids
    assert {row["date"] for row in of_void if row["kind"] == "void"} == {"2026-11-01"}
    page = (folder / "invoices" / "INV-00000001.html").read_text(encoding="utf-8")
    assert "Void since 1 Nov 2026." in page
    assert "nothing is owed" in page
    [line] = {row["corrects_numbers"] for row in rows(replaced, "invoice_register")}
    assert json.loads(line or "") == ["INV-00000001"]


def test_a_void_is_voided_at_the_provider_and_what_was_not_sent_never_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = StripeFake(SystemClock())
    monkeypatch.setenv("TALLYBOOK_STRIPE_KEY", fake.api_key)
    with serve(fake) as url, open_shop(tmp_path) as workspace:
        settings = f'[delivery.stripe]\nfrom = 2026-11-01\naddress = "{url}"\n'
        workspace.layout.settings_file.write_text(settings)
        import_text(workspace, "usage.csv", USAGE)
        with Workspace(workspace.layout.root, clock=FixedClock(NOVEMBER)) as now:
            now.invoice("2026-10", final=True)
            now.deliver(limit=1)
            now.void("INV-00000001", who="ann", why="wrong address")
            now.void("INV-00000002", who="ann", why="wrong plan")
            now.deliver()
        assert [(one["number"], one["status"]) for one in fake.store.all("invoice")] == [("INV-00000001", "void")]
        listed = {(one["of"], one["kind"]): one for one in _deliveries(now)}
        assert {key: one["state"] for key, one in listed.items()} == {
            ("INV-00000001", "invoice"): "delivered", ("INV-00000001", "void"): "delivered",
            ("INV-00000002", "invoice"): "waived", ("INV-00000002", "void"): "delivered",
        }  # fmt: skip
        # Whatever a delivery has become, an act has written it down.
        with now.books.connect() as connection:
            acts = {(one.batch_id, one.reason) for one in read_points(connection, DELIVERED)}
        assert {(one["id"], state) for one in listed.values() for state in ("meant", one["state"])} == acts
        with pytest.raises(DeliveryNotOpen, match="is void, so it is not sent any more"):
            retry(now.books, listed["INV-00000002", "invoice"]["id"], who="ann", why="please", now=NOVEMBER)


def _deliveries(workspace: Workspace) -> list[dict[str, str]]:
    names = ("delivered", "waived", "pending", "parked")
    states = [word for name in names for word in ("--state", name)]
    found = run(workspace, "deliveries", *states, "--json")["deliveries"]
    return [
        {"of": one["subject"], "kind": one["kind"], "state": one["state"], "id": one["delivery_id"]} for one in found
    ]


def test_what_a_credit_note_lowers_at_a_provider_is_voided_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = StripeFake(SystemClock())
    monkeypatch.setenv("TALLYBOOK_STRIPE_KEY", fake.api_key)
    with serve(fake) as url, open_shop(tmp_path) as workspace:
        workspace.layout.settings_file.write_text(f'[delivery.stripe]\nfrom = 2026-11-01\naddress = "{url}"\n')
        import_text(workspace, "usage.csv", USAGE)
        with Workspace(workspace.layout.root, clock=FixedClock(NOVEMBER)) as now:
            now.invoice("2026-10", final=True)
            now.deliver()
        with Workspace(workspace.layout.root, clock=FixedClock(DECEMBER)) as later:
            void_first_usage(later)
            later.correct()
            later.deliver(wait=lambda _seconds: None)
            with pytest.raises(DeliveryNotOpen, match="void CN-00000001 first, then INV-00000001"):
                later.void("INV-00000001", who="ann", why="wrong address")
            assert {one.status for one in later.invoices()} == {"final"}
            later.void("CN-00000001", who="ann", why="wrong address")
            later.void("INV-00000001", who="ann", why="wrong address")
            later.deliver(wait=lambda _seconds: None)
    assert [one["status"] for one in fake.store.all("credit_note")] == ["void"]
    assert sorted((one["number"], one["status"]) for one in fake.store.all("invoice")) == [
        ("INV-00000001", "void"), ("INV-00000002", "open"),
    ]  # fmt: skip


def test_taxes_of_the_catalog_reach_stripe_and_are_credited_with_what_they_are_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = StripeFake(SystemClock())
    monkeypatch.setenv("TALLYBOOK_STRIPE_KEY", fake.api_key)
    with serve(fake) as url, open_shop(tmp_path) as workspace:
        set_catalog(workspace, PARTIES)
        workspace.layout.settings_file.write_text(f'[delivery.stripe]\nfrom = 2026-11-01\naddress = "{url}"\n')
        import_text(workspace, "usage.csv", USAGE)
        with Workspace(workspace.layout.root, clock=FixedClock(NOVEMBER)) as now:
            now.invoice("2026-10", final=True)
            now.deliver()
        # 55.75 sold, 3.48 of tax on it, 30.00 of it prepaid: as on paper.
        acme = next(one for one in fake.store.all("invoice") if one["number"] == "INV-00000001")
        assert (acme["total"], acme["total_excluding_tax"]) == (2923, 2575)
        with Workspace(workspace.layout.root, clock=FixedClock(DECEMBER)) as later:
            void_first_usage(later)
            [credit] = later.correct().invoices
            later.deliver(wait=lambda _seconds: None)
            register = rows(later.publish("2026-12", formats=["jsonl"]), "invoice_register")
    [note] = fake.store.all("credit_note")
    [on_paper] = [row for row in register if row["number"] == credit.number]
    assert note["total"] == -int(Decimal(on_paper["amount_payable"]) * 100)
