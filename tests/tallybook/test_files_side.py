"""A workspace against a folder that it hands its documents to: delivered, listed, reconciled to the cent, taxes and voids too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from metering.clock import FixedClock
from tallybook import Workspace
from tallybook.provider_side import read_list
from tests.tallybook.shop import CATALOG, NOVEMBER, USAGE, import_text
from tests.tallybook.test_provider_side import amount, results

DUE = Decimal("81.04")  # 55.75 of acme-inc and 25.29 of globex
OF_PROVIDERS = (
    "PROVIDER_AMOUNT", "PROVIDER_ORPHAN", "STATUS_DRIFT", "INVOICE_NOT_DELIVERED", "DELIVERY_DUPLICATE", "REFUND_EXCESS",
)  # fmt: skip


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workspace]:
    """Return a shop that hands over its documents, and that taxes one of its accounts by 20 % on top."""
    (tmp_path / "inbox").mkdir()
    root = tmp_path / "shop"
    Workspace.init(root, clock=FixedClock(NOVEMBER)).close()
    (root / "tallybook.toml").write_text(f'[delivery.files]\nfrom = 2026-11-01\nfolder = "{tmp_path}/inbox"\n')
    taxed = CATALOG.replace('"Acme, Inc.",', '"Acme, Inc.", taxes: [{name: VAT, percent: "20"}],')
    (root / "catalog" / "shop.yaml").write_text(taxed, encoding="utf-8")
    with Workspace(root, clock=FixedClock(NOVEMBER)) as opened:
        opened.apply()
        import_text(opened, "usage.csv", USAGE)
        opened.invoice("2026-10", final=True)
        yield opened


def later(workspace: Workspace) -> None:
    """Let a minute pass: what is confirmed in the very instant of a reading is timing."""
    clock = workspace.clock
    assert isinstance(clock, FixedClock)
    clock.advance(timedelta(minutes=1))


def inbox(shop: Workspace) -> Path:
    return shop.layout.root.parent / "inbox"


def hand_over(shop: Workspace) -> None:
    shop.deliver()
    # The adapter of the settings goes by the machine's clock, the shop by November's.
    for path in inbox(shop).iterdir():
        os.utime(path, (NOVEMBER.timestamp(), NOVEMBER.timestamp()))
    later(shop)
    read_list(shop, "files", "2026-10")


def test_what_was_handed_over_is_held_and_unexplained_is_nothing(shop: Workspace) -> None:
    hand_over(shop)
    assert len(list(inbox(shop).iterdir())) == 2
    after = shop.reconcile("2026-10")
    asked = DUE + Decimal("11.15")  # 20 % of 55.75
    assert amount(after, "net", "invoiced", None) == DUE
    assert amount(after, "invoiced", "tax", "files") == Decimal("-11.15")
    assert amount(after, "invoiced", "confirmed", "files") == asked
    assert amount(after, "confirmed", "provider", "files") == asked
    assert not any(after.unexplained.amount.values())
    assert set(results(after, *OF_PROVIDERS).values()) == {"passed", "not_possible"}
    assert results(after, "PROVIDER_AMOUNT", "PROVIDER_ORPHAN") == {
        "PROVIDER_AMOUNT": "passed", "PROVIDER_ORPHAN": "passed",
    }  # fmt: skip


def test_a_void_is_a_void_there_too(shop: Workspace) -> None:
    hand_over(shop)
    shop.void("INV-00000001", why="sent to the wrong company", who="kim")
    hand_over(shop)
    assert {path.name for path in inbox(shop).iterdir()} == {
        "INV-00000001.json", "INV-00000001.void.json", "INV-00000002.json",
    }  # fmt: skip
    after = shop.reconcile("2026-10")
    assert not any(after.unexplained.amount.values())
    assert set(results(after, *OF_PROVIDERS).values()) == {"passed", "not_possible"}


def test_what_somebody_did_in_the_folder_is_found(shop: Workspace) -> None:
    hand_over(shop)
    (inbox(shop) / "INV-00000002.json").unlink()
    path = inbox(shop) / "INV-00000001.json"
    text = path.read_text()
    assert '"amount_payable": "66.90"' in text
    path.write_text(text.replace('"amount_payable": "66.90"', '"amount_payable": "66.91"'))
    os.utime(path, (NOVEMBER.timestamp(), NOVEMBER.timestamp()))
    by_hand = inbox(shop) / "copy.json"
    by_hand.write_text(text.replace('"delivery_id": "', '"delivery_id": "x'))
    october = NOVEMBER - timedelta(days=9)
    os.utime(by_hand, (october.timestamp(), october.timestamp()))
    later(shop)
    read_list(shop, "files", "2026-10")
    statement = shop.reconcile("2026-10")
    assert statement.breaks is not None
    found = {
        (row["control_id"], row["reason"], row["amount_likely"])
        for row in statement.breaks.to_pylist()
        if row["control_id"] in OF_PROVIDERS
    }
    assert found == {
        ("PROVIDER_AMOUNT", "amount_differs", Decimal("0.01")),
        ("PROVIDER_AMOUNT", "gone", Decimal("25.29")),
        ("PROVIDER_ORPHAN", "invoice_unknown_here", Decimal("66.90")),
    }
    assert not any(statement.unexplained.amount.values())
