"""Documents in a folder: the contract, never a half file nor another one's, and a list of whatever was done to it."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import mkdtemp

import orjson
import pytest

from billing_adapters.adapter import Document, Intent, Item, Lowered
from billing_adapters.errors import AdapterMisconfigured, ProviderListRefused
from billing_adapters.file_adapter import FileAdapter, make
from billing_adapters.outcomes import Outcome
from billing_adapters.provider_list import ProviderList
from billing_adapters.testing.contract import BEGINNING, AdapterContract
from metering.clock import FixedClock
from rating.balances import Burn
from rating.tax import TaxedInvoice, TaxedLine, TaxRate
from rating.voids import Voided
from tests.billing_adapters.invoices import invoice, line


class FolderWorld:
    """A folder on the real disk, whose writes fail when they are told to."""

    def __init__(self) -> None:
        self.clock = FixedClock(BEGINNING)
        self.folder = Path(mkdtemp())
        self.failures: list[str] = []

    def adapter(self) -> FileAdapter:
        return FileAdapter(self.folder, self.clock, self._link)

    def _link(self, draft: Path, path: Path) -> None:
        how = self.failures.pop(0) if self.failures else ""
        if how == "throttled":
            raise OSError(errno.ENOSPC, "no space left")
        if how != "away":
            os.link(draft, path)
        if how:
            raise OSError(errno.EIO, "the disk does not answer")

    def sources(self) -> Sequence[object]:
        made = [
            invoice(1, "49.00", "0.01", "-0.50"),
            invoice(2, "1200", currency="JPY"),
            invoice(3, "12345678.905", account="globex", currency="KWD"),
            invoice(4, "0", account="globex"),
        ]
        return [Document(one, account_name=f"{one.account_id} & Söhne") for one in made]

    def fail(self, how: str, times: int = 1) -> None:
        self.failures += [how] * times

    def holdings(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for path in sorted(self.folder.iterdir()):
            # A temporary file would be a half one that somebody might read.
            assert not path.name.startswith("."), path
            found.setdefault(orjson.loads(path.read_bytes())["invoice_id"], []).append(path.read_text())
        return found

    def expected(self, intent: Intent) -> str:
        return intent.payload.partition("\n")[2]


class TestFiles(AdapterContract):
    def make_world(self) -> FolderWorld:
        return FolderWorld()


class NoDesk:
    """A desk that is asked for nothing but time."""

    def spend(self, calls: int = 1) -> None:
        """Take it."""


def item(intent: Intent) -> Item:
    kept = (intent.kind, intent.natural_key, intent.payload, intent.account_id, intent.subject)
    return Item(intent.delivery_id("files"), *kept, enqueued_at=BEGINNING)


def hand_over(world: FolderWorld, *documents: Document) -> list[Outcome]:
    adapter = world.adapter()
    items = [item(intent) for one in documents for intent in adapter.prepare(one)]
    return [answer.outcome for answer in adapter.send(items, NoDesk())]  # type: ignore[arg-type]


def held(world: FolderWorld) -> ProviderList:
    end = BEGINNING + timedelta(days=1)
    return world.adapter().list_held(BEGINNING, end, asked=(), spend=lambda: None, read_at=end)


def test_what_was_changed_deleted_or_made_by_hand_is_listed_as_it_is() -> None:
    world = FolderWorld()
    hand_over(world, *(Document(invoice(at, "10.00")) for at in (1, 2, 3)))
    path = world.folder / "INV-00000001.json"
    path.write_bytes(path.read_bytes().replace(b'"amount_payable": "10.00"', b'"amount_payable": "100.00"'))
    os.utime(path, ns=(int(BEGINNING.timestamp()) * 10**9,) * 2)
    (world.folder / "INV-00000002.json").unlink()
    body = orjson.loads((world.folder / "INV-00000003.json").read_bytes())
    by_hand = world.folder / "by-hand.json"
    by_hand.write_bytes(orjson.dumps(body | {"delivery_id": None, "invoice_id": None, "number": "X-1"}))
    os.utime(by_hand, ns=(int(BEGINNING.timestamp()) * 10**9,) * 2)
    rows = held(world).table("documents").to_pylist()
    assert [(row["provider_id"], row["number"], row["total"]) for row in rows] == [
        ("INV-00000001.json", "INV-00000001", Decimal(100)),
        ("INV-00000003.json", "INV-00000003", Decimal(10)),
        ("by-hand.json", "X-1", Decimal(10)),
    ]
    assert rows[2]["delivery_id"] is None


def test_credit_notes_are_above_zero_taxes_apart_and_a_void_is_void() -> None:
    world = FolderWorld()
    first = invoice(1, "10.00", "5.00")
    burnt = replace(first, prepaid=(Burn("line-1-0001", "gift", Decimal("4.00")),), amount_due=Decimal("11.00"))
    vat = TaxRate("VAT", Decimal(20))
    lines = tuple(
        TaxedLine(one.line_id, None, one.amount, one.amount / 5, one.amount * 6 / 5, ((vat, one.amount / 5),))
        for one in burnt.lines
    )
    taxed = Document(burnt, taxed=TaxedInvoice(burnt.invoice_id, "USD", lines))
    note = replace(
        invoice(2, "-2.00"),
        document_type="credit_note",
        number="CRN-00000001",
        lines=(line(1, "-2.00", line_id="l-2"),),
    )
    lowers = Document(note, lowers=(Lowered(burnt.invoice_id, "INV-00000001", Decimal("2.00")),))
    void = Document(
        replace(invoice(3, "7.00"), status="void"), voided=Voided("invoice-3", 9, BEGINNING, "kim", "twice")
    )
    assert hand_over(world, taxed, lowers, Document(invoice(3, "7.00")), void) == [Outcome.ACCEPTED] * 4
    rows = held(world).table("documents").to_pylist()
    told = [(row["kind"], row["net"], row["tax"], row["total"], row["lowers"], row["status"]) for row in rows]
    assert told == [
        ("credit_note", Decimal(2), Decimal(0), Decimal(2), "INV-00000001.json", "final"),
        ("invoice", Decimal(11), Decimal(3), Decimal(14), None, "final"),
        ("invoice", Decimal(7), Decimal(0), Decimal(7), None, "void"),
    ]
    amounts = [(row["line_id"], row["amount"]) for row in held(world).table("lines").to_pylist()]
    assert amounts == [
        ("l-2", Decimal(2)), ("line-1-0001", Decimal(10)), ("line-1-0002", Decimal(5)), ("prepaid:gift", Decimal(-4)),
        ("line-3-0001", Decimal(7)),
    ]  # fmt: skip


def test_a_void_of_what_was_never_handed_over_writes_nothing() -> None:
    world = FolderWorld()
    void = Document(replace(invoice(3, "7.00"), status="void"))
    assert hand_over(world, void) == [Outcome.ACCEPTED]
    assert list(world.folder.iterdir()) == []


def test_another_file_of_that_name_stays_as_it_is() -> None:
    world = FolderWorld()
    other = world.folder / "INV-00000001.json"
    other.write_text("mine")
    assert hand_over(world, Document(invoice(1, "10.00"))) == [Outcome.CONFLICT_OTHER_VALUE]
    assert other.read_text() == "mine"
    assert [one.name for one in world.folder.iterdir()] == [other.name]


@pytest.mark.parametrize(
    "wrong", [b"", b"{", b"[]", b'{"document_type": "invoice"}', b'{"lines": [{"line_id": 1, "amount": 1.5}]}']
)
def test_a_file_that_is_no_document_stops_the_list_by_name(wrong: bytes) -> None:
    world = FolderWorld()
    path = world.folder / "notes.json"
    path.write_bytes(wrong)
    os.utime(path, ns=(int(BEGINNING.timestamp()) * 10**9,) * 2)
    with pytest.raises(ProviderListRefused, match=r"notes\.json is no document"):
        held(world)


def test_a_number_that_became_a_double_is_refused() -> None:
    world = FolderWorld()
    hand_over(world, Document(invoice(1, "10.00")))
    path = world.folder / "INV-00000001.json"
    path.write_bytes(path.read_bytes().replace(b'"amount_payable": "10.00"', b'"amount_payable": 10.00'))
    os.utime(path, ns=(int(BEGINNING.timestamp()) * 10**9,) * 2)
    with pytest.raises(ProviderListRefused, match="no number as text"):
        held(world)


def test_a_folder_that_is_not_there_is_never_made(tmp_path: Path) -> None:
    adapter = make({"folder": str(tmp_path / "share")})
    (intent,) = adapter.prepare(Document(invoice(1, "10.00")))
    for ask in (adapter.send, adapter.read_back):
        with pytest.raises(AdapterMisconfigured, match="mount it"):
            ask([item(intent)], NoDesk())  # type: ignore[arg-type]
    with pytest.raises(AdapterMisconfigured, match="mount it"):
        adapter.list_held(BEGINNING, BEGINNING, asked=(), spend=lambda: None, read_at=datetime.now(UTC))
    assert not (tmp_path / "share").exists()


def test_a_folder_is_said_as_a_whole_path() -> None:
    with pytest.raises(ValueError, match="whole path"):
        make({"folder": "out"})
    with pytest.raises(ValueError, match="no setting color"):
        make({"folder": "/srv", "color": "red"})
