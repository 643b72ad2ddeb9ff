"""A workspace against its provider: read or imported, kept, reconciled to the cent; and what every act wrote down of itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pytest
import stripe
from typer.testing import CliRunner

from billing_adapters.errors import ProviderAway, ProviderListRefused
from billing_adapters.kept_lists import load_table, newest_tables
from billing_adapters.reconciliation.statement import Statement
from billing_adapters.stripe_adapter.webhooks import StripeWebhooks
from billing_adapters.testing.stripe_fake import StripeFake
from billing_adapters.testing.stripe_server import serve
from metering.clock import FixedClock, SystemClock
from metering.control_points import DELIVERED, HELD, INVOICED, RATED, read_points
from metering.periods import parse_period
from tallybook import Workspace
from tallybook.cli import app
from tallybook.errors import BadSettings
from tallybook.provider_side import import_list, lists, read_list
from tallybook.settling import booked_payments
from tests.tallybook.shop import NOVEMBER, USAGE, import_text, open_shop

stripe.enable_telemetry = False
DUE = Decimal("81.04")  # 55.75 of acme-inc and 25.29 of globex


@pytest.fixture(scope="module")
def invoiced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = open_shop(tmp_path_factory.mktemp("invoiced") / "shop")
    import_text(workspace, "usage.csv", USAGE)
    workspace.invoice("2026-10", final=True)
    workspace.close()
    return workspace.layout.root


@pytest.fixture
def fake() -> StripeFake:
    return StripeFake(SystemClock())


@pytest.fixture
def shop(invoiced: Path, tmp_path: Path, fake: StripeFake, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    root = shutil.copytree(invoiced, tmp_path / "shop")
    fake.store._clock = FixedClock(NOVEMBER)
    with serve(fake) as url:
        monkeypatch.setenv("TALLYBOOK_STRIPE_KEY", fake.api_key)
        (root / "tallybook.toml").write_text(f'[delivery.stripe]\nfrom = 2026-11-01\naddress = "{url}"\n')
        with Workspace(root, clock=FixedClock(NOVEMBER)) as opened:
            yield opened


def results(statement: Statement, *names: str) -> dict[str, str]:
    assert statement.runs is not None
    return {row["control_id"]: row["result"] for row in statement.runs.to_pylist() if row["control_id"] in names}


def amount(statement: Statement, equation: str, bucket: str, adapter: str | None = "stripe") -> Decimal | None:
    row = statement.row(equation, bucket, currency="USD", adapter=adapter)
    return None if row is None else row.amount


def test_what_was_delivered_is_held_open_and_unexplained_is_nothing(shop: Workspace) -> None:
    before = shop.reconcile("2026-10")
    assert amount(before, "net", "invoiced", None) == DUE
    assert amount(before, "invoiced", "not_sent") == DUE
    assert results(before, "PROVIDER_AMOUNT", "INVOICE_NOT_DELIVERED") == {
        "PROVIDER_AMOUNT": "not_possible",
        "INVOICE_NOT_DELIVERED": "passed",
    }
    shop.deliver()
    assert [one.rows for one in read_list(shop, "stripe", "2026-10") if one.table_name == "documents"] == [2]
    after = shop.reconcile("2026-10")
    found = {equation: amount(after, equation, bucket) for equation, bucket in
             (("invoiced", "confirmed"), ("confirmed", "provider"), ("provider", "open"))}  # fmt: skip
    assert found == {"invoiced": DUE, "confirmed": DUE, "provider": DUE}
    assert not any(after.unexplained.amount.values())
    of_providers = ["PROVIDER_AMOUNT", "PROVIDER_ORPHAN", "STATUS_DRIFT", "REFUND_EXCESS", "INVOICE_NOT_DELIVERED"]
    assert set(results(after, *of_providers).values()) == {"passed"}


def test_it_needs_no_key_once_the_list_is_there(
    shop: Workspace, fake: StripeFake, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.deliver()
    read_list(shop, "stripe", "2026-10")
    monkeypatch.delenv("TALLYBOOK_STRIPE_KEY")
    calls = len(fake.calls)
    assert amount(shop.reconcile("2026-10"), "confirmed", "provider") == DUE
    assert len(fake.calls) == calls


def text_of(value: Any) -> str | None:
    """Return a value as an export has it: decimals without an exponent, which `str` gives to a zero of many places."""
    if value is None:
        return None
    return format(value, "f") if isinstance(value, Decimal) else getattr(value, "isoformat", value.__str__)()


def test_an_export_says_the_same_as_the_adapter(shop: Workspace, tmp_path: Path) -> None:
    shop.deliver()
    (document,) = [one for one in read_list(shop, "stripe", "2026-10") if one.table_name == "documents"]
    table = pyarrow.parquet.read_table(shop.layout.root / "provider" / document.path)
    texts = {
        name: pa.array([text_of(value) for value in table[name].to_pylist()], pa.string())
        for name in table.column_names
    }
    pyarrow.csv.write_csv(pa.table(texts), tmp_path / "documents.csv")
    (kept,) = import_list(shop, "stripe", "2026-10", {"documents": tmp_path / "documents.csv"})
    assert (kept.source, kept.rows) == ("import", 2)
    assert amount(shop.reconcile("2026-10"), "confirmed", "provider") == DUE


def test_what_somebody_did_at_the_provider_is_found(shop: Workspace, fake: StripeFake) -> None:
    shop.deliver()
    first, second = fake.store.all("invoice")
    first["lines"][0]["amount"] -= 1
    first["total"] -= 1
    first["amount_remaining"] -= 1
    fake.client().v1.invoices.void_invoice(second["id"], {})
    # What was confirmed in the very instant of the reading would be timing.
    clock = shop.clock
    assert isinstance(clock, FixedClock)
    clock.advance(timedelta(minutes=1))
    read_list(shop, "stripe", "2026-10")
    statement = shop.reconcile("2026-10")
    assert statement.breaks is not None
    found = {(row["control_id"], row["amount_likely"]) for row in statement.breaks.to_pylist()
             if row["control_id"] in {"PROVIDER_AMOUNT", "STATUS_DRIFT"}}  # fmt: skip
    voided = Decimal(second["total"]) / 100
    assert found == {("PROVIDER_AMOUNT", Decimal("0.01")), ("STATUS_DRIFT", voided)}
    assert amount(statement, "confirmed", "provider_difference") == voided + Decimal("0.01")
    assert not any(statement.unexplained.amount.values())


def test_what_webhooks_and_lists_tell_of_payment_is_booked_once(shop: Workspace, fake: StripeFake) -> None:
    """Events in any order and twice, then the list that says the same, then a list that knows of a refund."""
    shop.deliver()
    clock = shop.clock
    assert isinstance(clock, FixedClock)
    client, (first, second) = fake.client(), fake.store.all("invoice")
    client.v1.invoices.pay(first["id"])
    receiver = StripeWebhooks(shop.books, client, secrets=lambda: [fake.webhook_secret], clock=clock)
    for event in reversed(fake.signed_webhooks()):
        again = {"taken": "known", "ignored": "ignored"}
        assert again[receiver.receive(*event)] == receiver.receive(*event)
    paid = Decimal(first["total"]) / 100
    ((number, one),) = booked_payments(shop)
    assert (one.kind, one.amount, one.adapter, one.provider_id) == ("payment", paid, "stripe", first["id"])
    assert number == first["number"]
    assert one.posted_at == one.paid_at == NOVEMBER
    clock.advance(timedelta(minutes=1))
    read_list(shop, "stripe", "2026-10")
    assert len(booked_payments(shop)) == 1
    client.v1.invoices.mark_uncollectible(second["id"])
    clock.advance(timedelta(minutes=1))
    read_list(shop, "stripe", "2026-10")
    assert [(one.kind, one.amount) for _, one in booked_payments(shop)] == [
        ("payment", paid), ("write_off", Decimal(second["total"]) / 100),
    ]  # fmt: skip
    with shop.books.connect() as connection:
        october = parse_period("2026-10").in_zone("UTC")
        newest = newest_tables(connection, "stripe", october.start, october.end)
    # Given back beside credit notes: below zero on the row of the invoice, in an export.
    table = load_table(shop.layout.root / "provider", newest["payments"])
    rows = [
        {**row, "refunded": Decimal("-1.25")} if row["provider_id"] == first["id"] else row for row in table.to_pylist()
    ]
    path = shop.layout.root / "payments.parquet"
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    clock.advance(timedelta(minutes=1))
    for _ in range(2):
        import_list(shop, "stripe", "2026-10", {"payments": path})
    assert [(one.kind, one.amount) for _, one in booked_payments(shop)][2:] == [("refund", Decimal("-1.25"))]


def test_a_list_that_was_changed_is_refused(shop: Workspace) -> None:
    shop.deliver()
    (document,) = [one for one in read_list(shop, "stripe", "2026-10") if one.table_name == "documents"]
    path = shop.layout.root / "provider" / document.path
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ProviderListRefused, match="was changed after it was kept"):
        shop.reconcile("2026-10")
    path.unlink()
    with pytest.raises(ProviderListRefused, match="is gone"):
        shop.reconcile("2026-10")


def test_half_a_list_is_not_kept(shop: Workspace, fake: StripeFake) -> None:
    shop.deliver()
    with fake.failing(lambda _method, path: "error" if path == "/v1/invoices" else None), pytest.raises(ProviderAway):
        read_list(shop, "stripe", "2026-10")
    assert lists(shop) == []


def test_an_adapter_that_can_tell_nothing_says_so(shop: Workspace) -> None:
    text = shop.layout.settings_file.read_text(encoding="utf-8")
    shop.layout.settings_file.write_text(text + '[delivery.aws_marketplace]\nfrom = 2026-11-01\nregion = "us-east-1"\n')
    with Workspace(shop.layout.root, clock=shop.clock) as opened, pytest.raises(BadSettings, match="import the file"):
        read_list(opened, "aws_marketplace", "2026-10")


def test_every_act_wrote_down_what_it_did(shop: Workspace) -> None:
    shop.deliver()
    read_list(shop, "stripe", "2026-10")
    with shop.books.connect() as connection:
        points = read_points(connection)
    sums = {
        (point, reason): sum(
            (one.amount or Decimal(0) for one in points if (one.point, one.reason) == (point, reason)), Decimal(0)
        )
        for point, reason in {(one.point, one.reason) for one in points}
    }
    # What is exact is a cent or less away from what stands on paper, line by line.
    lines = sum(one.event_count for one in points if (one.point, one.reason) == (INVOICED, "line"))
    assert abs(sums[RATED, "charged"] - DUE) <= lines * Decimal("0.005")
    assert sums[INVOICED, "line"] == sums[INVOICED, "invoice"] == DUE
    assert sums[DELIVERED, "meant"] == sums[DELIVERED, "delivered"] == DUE
    assert sums[HELD, "documents"] == sums[HELD, "lines"] == DUE
    deliveries = {one.batch_id: one for one in points if one.reason == "delivered"}
    closes = {one.previous_batch_id for one in deliveries.values()}
    assert closes == {one.invoice_id for one in shop.invoices("2026-10")}, "batches are linked by id"


def test_the_command_line(shop: Workspace, tmp_path: Path) -> None:
    def run(*words: str, code: int = 0) -> Any:
        result = CliRunner().invoke(app, ["-w", str(shop.layout.root), "provider", *words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return json.loads(result.stdout) if "--json" in words else result.output

    shop.deliver()
    read = run("read", "stripe", "--period", "2026-10", "--json")["lists"]
    assert {row["table"]: row["rows"] for row in read if row["table"] != "lines"} == {"documents": 2, "payments": 2}
    assert run("lists", "--json")["lists"] == read
    assert "documents" in run("lists")
    bad = tmp_path / "bad.csv"
    bad.write_text("adapter\nstripe\n")
    with pytest.raises(ProviderListRefused, match="missing: kind"):
        run("import", "stripe", "--period", "2026-10", "--documents", str(bad))
    run("import", "stripe", "--period", "2026-10", code=2)
