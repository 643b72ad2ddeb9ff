"""Delivery over a workspace and by the command line: from final invoices to the fake Stripe over HTTP, and what people decide."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import stripe
from typer.testing import CliRunner

from billing_adapters.credits import Earlier, lowered_by
from billing_adapters.errors import AdapterMisconfigured
from billing_adapters.late_refusals import LateRefusal, keep_refusals, park_refused
from billing_adapters.outbox import Outbox
from billing_adapters.stripe_adapter.webhooks import StripeWebhooks
from billing_adapters.testing.stripe_fake import StripeFake
from billing_adapters.testing.stripe_server import serve
from metering.clock import FixedClock, SystemClock, iso_utc
from tallybook import Workspace
from tallybook.cli import app
from tallybook.delivery_progress import RESUMED
from tallybook.errors import BadSettings
from tallybook.provider_side import read_list
from tests.tallybook.shop import DECEMBER, LATE, NOVEMBER, USAGE, import_text, open_shop

stripe.enable_telemetry = False
VOIDED = """tenant_id,meter,quantity,event_time,idempotency_key,direction
acme,tokens,1500,2026-10-03T10:00:00Z,a1,output
"""


@pytest.fixture
def fake() -> StripeFake:
    return StripeFake(SystemClock())


@pytest.fixture(scope="module")
def invoiced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with October invoiced, made once and copied."""
    workspace = open_shop(tmp_path_factory.mktemp("invoiced") / "shop")
    import_text(workspace, "usage.csv", USAGE)
    workspace.invoice("2026-10", final=True)
    workspace.close()
    return workspace.layout.root


@pytest.fixture
def shop(invoiced: Path, tmp_path: Path, fake: StripeFake, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """A workspace with October invoiced, and Stripe on the loopback address."""
    root = shutil.copytree(invoiced, tmp_path / "shop")
    with serve(fake) as url:
        monkeypatch.setenv("TALLYBOOK_STRIPE_KEY", fake.api_key)
        (root / "tallybook.toml").write_text(f'[delivery.stripe]\nfrom = 2026-11-01\naddress = "{url}"\n')
        with Workspace(root, clock=FixedClock(NOVEMBER)) as opened:
            yield opened


def write_settings(workspace: Workspace, section: str) -> None:
    workspace.layout.settings_file.write_text(f"[delivery.stripe]\n{section}\n", encoding="utf-8")


def run(workspace: Workspace, *words: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["-w", str(workspace.layout.root), *words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return json.loads(result.stdout) if "--json" in words else result.output


def test_final_invoices_arrive_once_with_our_amounts(shop: Workspace, fake: StripeFake) -> None:
    new = run(shop, "deliver", "--dry-run", "--json")["new"]
    assert [(one["kind"], one["account_id"], one["amount"]) for one in new] == [
        ("invoice", "acme-inc", "55.75"),
        ("invoice", "globex", "25.29"),
    ]
    assert fake.calls == []
    (done,) = run(shop, "deliver", "--json")["adapters"]
    assert (done["new"], done["states"]) == (2, {"delivered": 2})
    assert sorted((one["number"], one["total"], one["status"]) for one in fake.store.all("invoice")) == [
        ("INV-00000001", 5575, "open"),
        ("INV-00000002", 2529, "open"),
    ]
    assert [one["name"] for one in fake.store.all("customer")] == ["Acme, Inc.", "Globex"]
    (again,) = run(shop, "deliver", "--json")["adapters"]
    assert (again["new"], again["states"], again["calls"]) == (0, {}, 0)
    assert "Nothing waits" in run(shop, "deliveries")


def test_a_credit_note_of_ours_lowers_the_invoice_that_it_corrects(shop: Workspace, fake: StripeFake) -> None:
    shop.deliver()
    with Workspace(shop.layout.root, clock=FixedClock(DECEMBER)) as later:
        void_first_usage(later)
        (credit,) = later.correct().invoices
        assert credit.document_type == "credit_note"
        (done,) = later.deliver(wait=lambda _seconds: None)
    assert done.delivered.states == {"delivered": 1}
    (note,) = fake.store.all("credit_note")
    assert note["total"] == -credit.total * 100
    lowered = next(one for one in fake.store.all("invoice") if one["id"] == note["invoice"])
    assert lowered["number"] == "INV-00000001"
    assert lowered["amount_remaining"] == 5575 - note["total"]


def void_first_usage(workspace: Workspace) -> None:
    """Take back the usage of acme that was priced, by a correction that names it."""
    from metering import Recorder

    recorder = Recorder(workspace.layout.root, ship="none", clock=workspace.clock)
    recorder.void("tokens", tenant="acme", key="a1")
    recorder.close()
    workspace.ship()


def test_what_stripe_refuses_is_parked_seen_retried_and_waived(shop: Workspace, fake: StripeFake) -> None:
    # The number of our first invoice is taken by a foreign one.
    theirs = fake.client().v1.customers.create({"name": "theirs"})
    fake.client().v1.invoices.create({"customer": theirs.id, "number": "INV-00000001"})
    write_settings(shop, shop.layout.settings_file.read_text().partition("\n")[2] + 'customers = {globex = "cus_gone"}')
    found = run(shop, "deliver", "--json", code=1)
    (parked,) = found["parked"]
    assert (parked["account_id"], parked["outcome"]) == ("globex", "REJECTED_PERMANENT")
    assert "No such customer" in parked["reason"]
    listed = run(shop, "deliveries", code=1)
    assert "REJECTED_PERMANENT" in listed
    assert "pending" in listed
    identity = parked["delivery_id"][:12]
    assert "retried" not in run(shop, "deliveries", "retry", identity, "--why", " ", code=2)
    (again,) = run(shop, "deliveries", "retry", identity, "--why", "mapped anew", "--who", "ada", "--json")[
        "deliveries"
    ]
    assert (again["state"], again["decided_by"]) == ("pending", "ada")
    (gone,) = run(shop, "deliveries", "waive", identity, "--why", "sent by hand", "--who", "ada", "--json")[
        "deliveries"
    ]
    assert (gone["state"], gone["reason"]) == ("waived", "waived by ada: sent by hand")
    shown = run(shop, "deliveries", "show", identity)
    assert "mapped anew" in shown
    assert "sent by hand" in shown
    (row,) = run(shop, "deliveries", "--invoice", "INV-00000002", "--json")["deliveries"]
    assert (row["state"], row["subject"]) == ("waived", "INV-00000002")


def test_what_webhooks_bring_back_is_shown(shop: Workspace, fake: StripeFake) -> None:
    shop.deliver()
    receiver = StripeWebhooks(shop.books, fake.client(), secrets=lambda: [fake.webhook_secret])
    for event in fake.signed_webhooks():
        receiver.receive(*event)
    rows = run(shop, "payments", "--json")["payments"]
    assert sorted((one["status"], one["amount_remaining"], one["currency"]) for one in rows) == [
        ("open", "25.29", "USD"),
        ("open", "55.75", "USD"),
    ]
    assert "55.75 USD" in run(shop, "payments")


def test_prepaid_balances_become_credit_grants_where_stripe_prices(shop: Workspace, fake: StripeFake) -> None:
    balances = (
        "balances:\n"
        '  - {id: old, account: globex, currency: USD, amount: "5.00", effective: 2026-10-01}\n'
        '  - {id: new, account: globex, currency: USD, amount: "7.50", effective: 2026-11-15}\n'
    )
    (shop.layout.catalog / "balances.yaml").write_text(balances, encoding="utf-8")
    shop.apply()
    text = shop.layout.settings_file.read_text().replace("[delivery.stripe]", "[delivery.stripe_credits]")
    shop.layout.settings_file.write_text(text)
    with Workspace(shop.layout.root, clock=FixedClock(NOVEMBER)) as again:
        again.deliver(wait=lambda _seconds: None)
        again.deliver(wait=lambda _seconds: None)
    assert [one["amount"]["monetary"]["value"] for one in fake.store.all("billing.credit_grant")] == [750]


METERS = """
window = "day"
mode = "window"
[delivery.stripe_meters.meters]
tokens = "tokens_used"
"""


def sell_by_meters(shop: Workspace, fake: StripeFake) -> FixedClock:
    """Let the shop tell its usage to a meter of Stripe, day by day; return the clock of both."""
    params: Any = {"display_name": "t", "event_name": "tokens_used", "default_aggregation": {"formula": "sum"},
                   "event_time_window": "day"}  # fmt: skip
    fake.client().v1.billing.meters.create(params)
    fake.store._clock = clock = FixedClock(datetime(2026, 10, 5, 1, tzinfo=UTC))
    text = shop.layout.settings_file.read_text().replace("[delivery.stripe]", "[delivery.stripe_meters]")
    shop.layout.settings_file.write_text(text.replace("2026-11-01", "2026-10-01") + METERS)
    return clock


def test_usage_is_told_to_stripe_s_meters_by_account_and_told_again_when_it_changed(
    shop: Workspace, fake: StripeFake
) -> None:
    clock = sell_by_meters(shop, fake)

    def counted() -> dict[str, Decimal]:
        return {
            f"{datetime.fromtimestamp(at, UTC):%d}": value for at, value in fake.meters.counted["tokens_used"].values()
        }

    with Workspace(shop.layout.root, clock=clock) as again:
        again.deliver(wait=lambda _seconds: None)
        # Two windows of acme; the rest of the two days was nothing and is not told.
        assert counted() == {"03": Decimal(1500), "04": Decimal(777)}
        import_text(again, "more.csv", LATE.replace("2026-10-30", "2026-10-04").replace("80", "0.5"))
        (done,) = again.deliver(wait=lambda _seconds: None)
        assert (done.enqueued.new, done.delivered.states) == (1, {"delivered": 1})
        assert counted() == {"03": Decimal(1500), "04": Decimal("777.5")}
        void_first_usage(again)
        again.deliver(wait=lambda _seconds: None)
    assert counted() == {"03": Decimal(0), "04": Decimal("777.5")}


def test_what_was_refused_later_is_listed_with_what_became_of_it(shop: Workspace) -> None:
    assert "No provider refused anything later." in run(shop, "deliveries", "late")
    run(shop, "deliver")
    rows = run(shop, "deliveries", "--state", "delivered", "--json")["deliveries"]
    named = (rows[0]["delivery_id"], f"{rows[1]['delivery_id']}.1", "evt_of_somebody_else")
    refusal = LateRefusal("stripe", "evt_1", "no_meter", "a.report", 12, named, "gone", "mtr_1", None, None, NOVEMBER)
    with shop.books.begin() as connection:
        keep_refusals(connection, [refusal, replace(refusal, adapter="other", event_id="evt_2", named=())])
    one = run(shop, "deliveries", "late", "--adapter", "stripe", "--json")["late_refusals"]
    expected = {"adapter": "stripe", "event_id": "evt_1", "code": "no_meter", "kind": "a.report", "error_count": 12,
                "message": "gone", "subject": "mtr_1", "start_at": None, "end_at": None,
                "received_at": iso_utc(NOVEMBER)}  # fmt: skip
    states = [(row["delivery_id"], "delivered") for row in rows] + [(None, None)]
    told = [{"name": name, "delivery_id": ours, "state": state}
            for name, (ours, state) in zip(named, states, strict=True)]  # fmt: skip
    assert one == [{**expected, "named": told}]
    shown = run(shop, "deliveries", "late")
    assert [word for word in ("12", "not ours", "other", "samples only") if word not in shown] == []
    # One refused by name is parked: a person is to see to it.
    park_refused(shop.books, [replace(refusal, named=named[:1])], now=NOVEMBER)
    again = run(shop, "deliveries", "late", "--json", code=1)["late_refusals"]
    assert {row["state"] for one in again for row in one["named"]} == {"parked", "delivered", None}


def test_what_stripe_s_meters_counted_is_read_and_compared_with_what_was_told(
    shop: Workspace, fake: StripeFake
) -> None:
    clock = sell_by_meters(shop, fake)
    with Workspace(shop.layout.root, clock=clock) as again:
        again.deliver(wait=lambda _seconds: None)

        def compared() -> list[tuple[str, str, str | None, Decimal | None, str]]:
            # A quarter of an hour later what was counted is settled.
            clock.advance(timedelta(hours=1))
            [kept] = read_list(again, "stripe_meters", "2026-10")
            assert (kept.table_name, kept.rows) == ("quantities", 2)
            statement = again.reconcile("2026-10")
            results = {run["control_id"]: run["result"] for run in statement.runs.to_pylist()}
            assert results["PROVIDER_QUANTITY"] in {"passed", "breaks"}
            return [
                (one.control_id, one.reason, one.meter, one.quantity_difference, f"{one.recover_by:%Y-%m-%d %H:%M}")
                for one in statement.findings
                if one.control_id in {"PROVIDER_QUANTITY", "DELIVERY_DUPLICATE"}
            ]

        assert compared() == []
        # Stripe loses 77 of the 777 tokens of 4 October; they can be told again until 35 days after that.
        [place] = [key for key, (_, value) in fake.meters.counted["tokens_used"].items() if value == 777]
        fake.meters.counted["tokens_used"][place] = (fake.meters.counted["tokens_used"][place][0], Decimal(700))
        assert compared() == [("PROVIDER_QUANTITY", "less_than_sent", "tokens", Decimal(77), "2026-11-08 00:00")]


def test_nothing_is_sent_without_a_day_to_begin_with(shop: Workspace, fake: StripeFake) -> None:
    write_settings(shop, "")
    with Workspace(shop.layout.root) as again, pytest.raises(BadSettings, match="from = 2026-11-01"):
        again.deliver()
    write_settings(shop, "from = 2026-11-02")
    with Workspace(shop.layout.root, clock=FixedClock(NOVEMBER)) as again:
        (done,) = again.deliver(is_dry=True)
    assert done.intents == ()
    assert fake.calls == []


def test_the_doctor_looks_at_delivery(shop: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def said() -> tuple[str, str]:
        checks = json.loads(CliRunner().invoke(app, ["-w", str(shop.layout.root), "doctor", "--json"]).stdout)["checks"]
        return next((one["result"], one["what"]) for one in checks if one["name"] == "delivery")

    assert said() == ("ok", "stripe; 0 wait to be sent")
    text = shop.layout.settings_file.read_text()
    write_settings(shop, text.partition("\n")[2] + 'customers = {globex = "cus_gone"}')
    run(shop, "deliver", code=1)
    assert said() == ("warn", "1 are parked and wait for a person")
    monkeypatch.delenv("TALLYBOOK_STRIPE_KEY")
    assert said()[0] == "fail"
    assert "TALLYBOOK_STRIPE_KEY" in said()[1]


def test_sections_and_adapters_that_are_not_there_are_named(shop: Workspace) -> None:
    with pytest.raises(BadSettings, match=r"no section \[delivery.files\]"):
        shop.deliver(["files"])
    shop.layout.settings_file.write_text("[delivery.nobody]\nfrom = 2026-11-01\n", encoding="utf-8")
    with Workspace(shop.layout.root) as again, pytest.raises(AdapterMisconfigured, match="'nobody'"):
        again.deliver()
    write_settings(shop, "from = 2026-11-01\ncolection_method = 'x'")
    with Workspace(shop.layout.root) as again, pytest.raises(AdapterMisconfigured, match="colection_method"):
        again.deliver()
    shop.layout.settings_file.write_text("", encoding="utf-8")
    assert "No adapter is set up" in run(shop, "deliver")


def test_a_budget_of_calls_is_kept_and_the_next_run_goes_on(shop: Workspace, fake: StripeFake) -> None:
    assert "used up" in run(shop, "deliver", "--calls-max", "3")
    assert len(fake.calls) == 3
    run(shop, "deliver")
    assert sorted(one["total"] for one in fake.store.all("invoice") if one["status"] == "open") == [2529, 5575]


def test_it_says_how_far_it_is_and_that_it_may_be_interrupted(shop: Workspace, fake: StripeFake) -> None:
    said = run(shop, "deliver", "--limit", "1")
    assert f"{RESUMED}\nstripe: 1 due\nstripe: 1 of 1 tried\n" in said
    # The other invoice is due still, the first is not.
    said = run(shop, "deliver")
    assert f"{RESUMED}\nstripe: 1 due\nstripe: 1 of 1 tried\n" in said
    assert RESUMED not in run(shop, "deliver")
    assert len(fake.store.all("invoice")) == 2


def test_json_comes_without_progress(shop: Workspace, fake: StripeFake) -> None:
    result = CliRunner().invoke(app, ["-w", str(shop.layout.root), "deliver", "--json"])
    assert (result.exit_code, result.stderr) == (0, "")


def test_an_interruption_is_told_what_it_means_and_the_next_run_goes_on(shop: Workspace, fake: StripeFake) -> None:
    finish = Outbox.finish
    finished: list[object] = []

    def interrupted(outbox: Outbox, *given: Any) -> bool:
        finished.append(given)
        if len(finished) == 2:
            raise KeyboardInterrupt
        return finish(outbox, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Outbox, "finish", interrupted)
        result = CliRunner().invoke(app, ["-w", str(shop.layout.root), "deliver"])
    assert result.exit_code != 0
    assert f"Interrupted. {RESUMED}" in result.stderr
    with Workspace(shop.layout.root, clock=FixedClock(datetime.now(UTC) + timedelta(minutes=11))) as later:
        (done,) = later.deliver(wait=lambda _seconds: None)
    assert done.delivered.states == {"delivered": 1}
    assert sorted(one["total"] for one in fake.store.all("invoice")) == [2529, 5575]


def test_late_usage_follows_as_a_supplement(shop: Workspace, fake: StripeFake) -> None:
    shop.deliver()
    with Workspace(shop.layout.root, clock=FixedClock(DECEMBER)) as later:
        import_text(later, "late.csv", LATE)
        later.correct()
        later.deliver(wait=lambda _seconds: None)
    assert sorted(one["total"] for one in fake.store.all("invoice")) == [100, 2529, 5575]


# --- which invoices a credit note lowers --------------------------------------------------------------------------------

DAY = datetime(2026, 10, 1, tzinfo=UTC)


def earlier(number: int, left: str, *, is_corrected: bool = False) -> Earlier:
    return Earlier(f"invoice-{number}", f"INV-{number}", DAY + timedelta(days=number), Decimal(left), is_corrected)


@pytest.mark.parametrize(
    ("given_back", "invoices", "expected"),
    [
        ("10", [earlier(1, "49"), earlier(2, "30")], {"invoice-2": "10"}),
        ("10", [earlier(1, "49", is_corrected=True), earlier(2, "30")], {"invoice-1": "10"}),
        ("60", [earlier(1, "49", is_corrected=True), earlier(2, "30")], {"invoice-1": "49", "invoice-2": "11"}),
        ("10", [earlier(1, "0"), earlier(2, "-5")], {}),
        ("100", [earlier(1, "49"), earlier(2, "30")], {"invoice-2": "30", "invoice-1": "49"}),
    ],
)
def test_a_credit_note_lowers_what_it_corrects_first_and_nothing_below_zero(
    given_back: str, invoices: list[Earlier], expected: dict[str, str]
) -> None:
    found = lowered_by(Decimal(given_back), invoices)
    assert {one.invoice_id: str(one.amount) for one in found} == expected
