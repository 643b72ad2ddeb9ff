"""The Stripe adapter over the real SDK and a faithful fake: the contract, money to the last unit, and what Stripe alone does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import orjson
import pytest
import stripe
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import StaticPool

from billing_adapters.adapter import Document, Intent, Lowered
from billing_adapters.books import deliveries, delivery_attempts, delivery_links, delivery_paces
from billing_adapters.deliver import Delivered, Deliverer
from billing_adapters.deliveries import Delivery, list_deliveries
from billing_adapters.errors import AdapterMisconfigured, ProviderAway
from billing_adapters.stripe_adapter import StripeAdapter, StripeSettings, make
from billing_adapters.stripe_adapter.documents import intents_of
from billing_adapters.testing.contract import AdapterContract
from billing_adapters.testing.stripe_fake import StripeFake
from billing_adapters.testing.stripe_server import serve
from metering.books import control_points
from metering.clock import from_us
from rating.balances import Burn
from tests.billing_adapters.invoices import invoice
from tests.billing_adapters.stripe_world import StripeWorld, holdings


class TestStripe(AdapterContract):
    def make_world(self) -> StripeWorld:
        return StripeWorld()


@pytest.mark.prove
class TestStripeWhoseFailuresAreReplayed(AdapterContract):
    """Every contract once more, with answers of 500 where the suite throttles: before it was done, and after."""

    def make_world(self) -> StripeWorld:
        class World(StripeWorld):
            def fail(self, how: str, times: int = 1) -> None:
                self.fake.fail({"throttled": "error_after", "away": "error"}.get(how, how), 1)

        return World()


def books() -> Engine:
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    tables = [deliveries, delivery_attempts, delivery_links, delivery_paces, control_points]
    deliveries.metadata.create_all(engine, tables=tables)
    return engine


def deliver(world: StripeWorld, engine: Engine, documents: Sequence[Document], passes: int = 1) -> Delivered:
    adapter = world.adapter()
    wait = lambda seconds: world.clock.advance(timedelta(seconds=seconds))  # noqa: E731
    deliverer = Deliverer(engine, adapter, clock=world.clock, wait=wait, chance=lambda: 0.5)
    deliverer.outbox.enqueue([intent for one in documents for intent in adapter.prepare(one)])
    for _ in range(passes):
        done = deliverer.run()
        world.clock.advance(timedelta(minutes=20))
    return done


def rows(engine: Engine, kind: str | None = None) -> list[Delivery]:
    with engine.connect() as connection:
        return [row for row in list_deliveries(connection) if kind in {None, row.kind}]


def payload(intent: Intent) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(intent.payload)
    return body


# --- money --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("currency", "amounts", "units"),
    [
        ("USD", ["49.00", "0.01", "-0.50"], [4900, 1, -50]),
        ("JPY", ["1200", "-1"], [1200, -1]),
        ("ISK", ["1200"], [120000]),
        # Three decimals, the last one 0: cut on the cumulative sum, so that the lines add up to the total.
        ("KWD", ["1.234", "0.009", "0.007"], [1230, 10, 10]),
        ("KWD", ["0.004", "0.004", "0.004"], [0, 0, 10]),
        ("MGA", ["12.00"], [12]),
    ],
)
def test_amounts_are_whole_units_as_stripe_counts_them(currency: str, amounts: list[str], units: list[int]) -> None:
    (intent,) = intents_of(Document(invoice(1, *amounts, currency=currency)), StripeSettings())
    body = payload(intent)
    assert [line["amount"] for line in body["lines"]] == units
    assert body["total"] == sum(units)
    assert b"." not in orjson.dumps([body["total"], *units])


def test_what_stripe_cannot_take_is_carried_to_the_next_document() -> None:
    """A quarter of invoices in Kuwaiti dinar: sent plus carried is what was booked, after each and to the last fils."""
    carried, booked, sent = Decimal(0), Decimal(0), Decimal(0)
    for number in range(1, 91):
        one = invoice(number, f"{number % 7}.{number * 37 % 1000:03}", "0.003", currency="KWD")
        (intent,) = intents_of(Document(one, carried=carried), StripeSettings())
        assert intent.amount is not None
        assert intent.quantity is not None
        booked += intent.amount
        sent += intent.quantity
        carried = booked - sent
        assert Decimal(0) <= carried < Decimal("0.01")
        assert payload(intent)["total"] % 10 == 0
    assert sent + carried == booked


def test_what_prepaid_balances_paid_is_not_asked_for_again() -> None:
    one = invoice(1, "49.00", "1.00", amount_due=Decimal("20.00"))
    one = replace(
        one, prepaid=(Burn("line-1-0001", "bal-a", Decimal("29.00")), Burn("line-1-0002", "bal-a", Decimal("1.00")))
    )
    (intent,) = intents_of(Document(one), StripeSettings())
    assert payload(intent)["total"] == 2000
    assert payload(intent)["lines"][-1]["amount"] == -3000


@pytest.mark.parametrize(("lines", "at_stripe"), [(249, 249), (250, 250), (251, 250), (1000, 250)])
def test_more_than_250_lines_are_folded_to_the_cent(lines: int, at_stripe: int) -> None:
    world, engine = StripeWorld(settings=StripeSettings()), books()
    one = invoice(1, *[f"{number}.{number % 100:02}" for number in range(lines)])
    deliver(world, engine, [Document(one)])
    (found,) = world.fake.store.all("invoice")
    assert len(found["lines"]) == at_stripe
    assert found["total"] == one.total * 100
    if lines > 250:
        assert found["lines"][-1]["description"] == f"{lines - 249} further lines, see INV-00000001"


def test_another_layout_of_the_payload_is_not_another_invoice() -> None:
    one = Document(invoice(1, "49.00"))
    (before,) = intents_of(one, StripeSettings())
    (after,) = intents_of(one, StripeSettings(days_until_due=14))
    assert before.payload != after.payload
    assert before.delivery_id("stripe") == after.delivery_id("stripe")


# --- what Stripe alone does ---------------------------------------------------------------------------------------------


def test_a_clean_delivery_takes_three_calls_after_the_customer_is_known() -> None:
    world, engine = StripeWorld(settings=StripeSettings()), books()
    deliver(world, engine, [Document(invoice(1, "49.00"))])
    world.fake.calls.clear()
    deliver(world, engine, [Document(invoice(2, "50.00"))])
    assert [path.rpartition("/")[2] for _, path in world.fake.calls] == ["invoices", "add_lines", "finalize"]


def test_numbers_names_periods_and_terms_stand_at_stripe() -> None:
    world, engine = StripeWorld(), books()
    deliver(world, engine, [Document(invoice(1, "49.00"), account_name="Acme, Inc.")])
    (customer,) = world.fake.store.all("customer")
    assert (customer["name"], customer["metadata"]) == ("Acme, Inc.", {"tallybook_account": "acme-inc"})
    (found,) = world.fake.store.all("invoice")
    assert (found["number"], found["status"], found["auto_advance"]) == ("INV-00000001", "open", True)
    (line,) = found["lines"]
    assert line["period"] == {"start": 1790812800, "end": 1793491199}
    assert line["description"] == "Tokens 1 (12.345678901 token)"
    (row,) = rows(engine)
    assert (row.state, row.provider_id, row.amount) == ("delivered", found["id"], Decimal("49.00"))


def test_one_customer_per_account_however_it_begins() -> None:
    world, engine = StripeWorld(), books()
    deliver(world, engine, [Document(invoice(1, "49.00")), Document(invoice(2, "5.00"))])
    # Books that were lost: the customer is found by what stands in its metadata.
    deliver(world, books(), [Document(invoice(3, "7.00"))])
    assert len(world.fake.store.all("customer")) == 1
    mapped = StripeWorld(settings=StripeSettings(customers={"acme-inc": "cus_theirs"}))
    mapped.fake.store.add("customer", "cus", {"name": "theirs", "metadata": {}, "balance": 0})
    theirs = mapped.fake.store.all("customer")[0]["id"]
    mapped.settings = StripeSettings(customers={"acme-inc": theirs})
    deliver(mapped, books(), [Document(invoice(1, "49.00"))])
    assert [one["customer"] for one in mapped.fake.store.all("invoice")] == [theirs]


@pytest.mark.parametrize("how", ["lost", "away", "error", "error_after", "throttled", "conflict"])
@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize(
    "away",
    [
        pytest.param(timedelta(minutes=1), id="keys live", marks=pytest.mark.prove),
        pytest.param(timedelta(days=3), id="keys expired"),
    ],
)
def test_any_failure_at_any_write_is_repaired(how: str, at: int, away: timedelta) -> None:
    writes = -1

    def fault(method: str, _path: str) -> str | None:
        nonlocal writes
        writes += method == "post"
        return how if writes == at and method == "post" else None

    world, engine = StripeWorld(fault), books()
    document = Document(invoice(1, "49.00", "0.01", "-0.50", "7.77"))
    deliver(world, engine, [document])
    world.clock.advance(away)
    deliver(world, engine, [document], passes=4)
    assert holdings(world.fake) == {"invoice-1": ["5628 usd in 4 lines of 5628"]}
    assert len(world.fake.store.all("invoice")) == 1
    assert len(world.fake.store.all("customer")) == 1
    assert [row.state for row in rows(engine)] == ["delivered"]


def test_a_draft_that_is_not_ours_to_the_cent_is_never_finalized() -> None:
    world, engine = StripeWorld(), books()
    document = Document(invoice(1, "49.00", "1.00"))
    world.fake.fault = lambda _method, path: "away" if path.endswith("finalize") else None
    deliver(world, engine, [document])
    (draft,) = world.fake.store.all("invoice")
    # Somebody adds a line at Stripe, by hand.
    world.client.v1.invoices.add_lines(draft["id"], {"lines": [{"amount": 7, "metadata": {"tallybook_line": "x"}}]})
    world.fake.fault = lambda _method, _path: None
    deliver(world, engine, [document], passes=3)
    assert holdings(world.fake) == {"invoice-1": ["5000 usd in 2 lines of 5000"]}
    assert draft["id"] not in [one["id"] for one in world.fake.store.all("invoice")]


def test_a_total_that_never_becomes_ours_is_parked_with_what_to_look_for() -> None:
    """As where Stripe adds a tax to whatever is invoiced to this customer."""
    world, engine = StripeWorld(), books()
    add_lines = world.fake.invoices.add_lines

    def taxed(identity: str, raw: dict[str, Any]) -> dict[str, Any]:
        shown = add_lines(identity, raw)
        return {**shown, "total": shown["total"] + 19}

    routes = world.fake.invoices.routes
    routes[:] = [(where, verb, taxed if act == add_lines else act) for where, verb, act in routes]
    deliver(world, engine, [Document(invoice(1, "49.00"))], passes=8)
    (row,) = rows(engine)
    assert (row.state, row.outcome) == ("parked", "REJECTED_PERMANENT")
    assert "look for taxes or discounts" in row.reason
    assert world.fake.store.all("invoice") == []


def test_discounts_of_stripe_are_not_inherited() -> None:
    world, engine = StripeWorld(), books()
    create = world.fake.invoices.create
    asked: list[dict[str, Any]] = []
    routes = world.fake.invoices.routes
    routes[:] = [
        (where, verb, (lambda raw: asked.append(raw) or create(raw)) if act == create else act)  # type: ignore[func-returns-value]
        for where, verb, act in routes
    ]
    deliver(world, engine, [Document(invoice(1, "49.00"))])
    assert [one["discounts"] for one in asked] == [""]


def test_an_invoice_changed_at_stripe_is_a_conflict_with_both_figures() -> None:
    world, engine = StripeWorld(), books()
    document = Document(invoice(1, "49.00"))
    world.fake.fault = lambda _method, path: "away" if path.endswith("finalize") else None
    deliver(world, engine, [document])
    (draft,) = world.fake.store.all("invoice")
    world.fake.fault = lambda _method, _path: None
    world.client.v1.invoices.add_lines(draft["id"], {"lines": [{"amount": 7}]})
    world.client.v1.invoices.finalize_invoice(draft["id"], {})
    deliver(world, engine, [document])
    (row,) = rows(engine)
    assert (row.state, row.outcome, row.money) == ("parked", "CONFLICT_OTHER_VALUE", "AT_RISK")
    assert "Stripe holds 4907 usd, ours is 4900 usd" in row.reason


def test_a_credit_note_lowers_what_is_open_and_then_what_was_paid() -> None:
    world, engine = StripeWorld(), books()
    deliver(world, engine, [Document(invoice(1, "49.00")), Document(invoice(2, "30.00"))])
    first = next(one for one in world.fake.store.all("invoice") if one["number"] == "INV-00000001")
    world.client.v1.invoices.pay(first["id"], {})
    credit = invoice(9, "-40.00", document_type="credit_note", number="CN-00000001")
    lowers = (
        Lowered("invoice-1", "INV-00000001", Decimal("15.00")),
        Lowered("invoice-2", "INV-00000002", Decimal("25.00")),
    )
    document = Document(credit, lowers=lowers)
    world.fake.fail("lost")
    deliver(world, engine, [document], passes=3)
    notes = world.fake.store.all("credit_note")
    assert sorted((one["total"], one["pre_payment_amount"], one["post_payment_amount"]) for one in notes) == [
        (1500, 0, 1500),
        (2500, 2500, 0),
    ]
    assert world.fake.store.all("customer")[0]["balance"] == -1500
    assert {row.state for row in rows(engine)} == {"delivered"}


def test_a_credit_note_that_lowers_nothing_at_stripe_waits_for_a_person() -> None:
    world, engine = StripeWorld(), books()
    credit = invoice(9, "-40.00", document_type="credit_note", number="CN-00000001")
    lowers = (Lowered("invoice-1", "INV-00000001", Decimal("15.00")),)
    deliver(world, engine, [Document(credit, lowers=lowers)])
    reasons = sorted(row.reason for row in rows(engine))
    assert "25.00 USD of CN-00000001 lower no invoice at Stripe" in reasons[0]
    assert "is not at Stripe; deliver that first" in reasons[1]


@pytest.mark.parametrize("status", ["open", "paid", "none", "lost link"])
def test_voids(status: str) -> None:
    world, engine = StripeWorld(), books()
    one = invoice(1, "49.00")
    if status != "none":
        deliver(world, engine, [Document(one)])
        if status == "paid":
            world.client.v1.invoices.pay(world.fake.store.all("invoice")[0]["id"], {})
        if status == "lost link":
            with engine.begin() as connection:
                connection.execute(delivery_links.delete())
    world.clock.advance(timedelta(minutes=2))
    world.fake.fail("lost")
    deliver(world, engine, [Document(replace(one, status="void"))], passes=3)
    (row,) = rows(engine, "void")
    assert row.state == "delivered"
    found = [one["status"] for one in world.fake.store.all("invoice")]
    assert found == {"paid": ["paid"], "none": []}.get(status, ["void"])
    # What was paid cannot be voided: all of it is the customer's balance now, once.
    credited = [(one["total"], one["post_payment_amount"]) for one in world.fake.store.all("credit_note")]
    assert credited == ([(4900, 4900)] if status == "paid" else [])
    assert [one["balance"] for one in world.fake.store.all("customer")] == (
        [] if status == "none" else [-4900 if status == "paid" else 0]
    )


@pytest.mark.parametrize("is_paid", [False, True])
def test_a_credit_note_of_ours_is_voided_unless_it_credited_what_was_paid(is_paid: bool) -> None:
    world, engine = StripeWorld(), books()
    one = invoice(1, "49.00")
    credit = invoice(9, "-15.00", document_type="credit_note", number="CN-00000001")
    lowers = (Lowered("invoice-1", "INV-00000001", Decimal("15.00")),)
    deliver(world, engine, [Document(one)])
    if is_paid:
        world.client.v1.invoices.pay(world.fake.store.all("invoice")[0]["id"], {})
    deliver(world, engine, [Document(credit, lowers=lowers)])
    world.fake.fail("lost")
    deliver(world, engine, [Document(replace(credit, status="void"))], passes=3)
    (row,) = rows(engine, "void")
    (note,) = world.fake.store.all("credit_note")
    if is_paid:
        assert (row.state, note["status"]) == ("parked", "issued")
        assert "correct the balance there" in row.reason
    else:
        assert (row.state, note["status"]) == ("delivered", "void")
        assert world.fake.store.all("invoice")[0]["amount_remaining"] == 4900


def test_stripe_s_own_list_is_read_back_exactly_with_what_is_not_ours() -> None:
    world, engine = StripeWorld(), books()
    start = from_us(world.clock.now_us())
    made = [Document(invoice(n, f"{n}.99")) for n in range(1, 121)]
    deliver(world, engine, [*made, Document(invoice(200, "1.234", currency="KWD"))])
    credit = invoice(9, "-5.00", document_type="credit_note", number="CN-00000001", invoice_id="credit-1")
    deliver(world, engine, [Document(credit, lowers=(Lowered("invoice-10", "INV-00000010", Decimal("5.00")),))])
    theirs = world.client.v1.invoices.create({"customer": world.fake.store.all("customer")[0]["id"], "currency": "usd"})
    world.client.v1.invoices.add_lines(theirs.id, {"lines": [{"amount": 7}]})
    world.client.v1.invoices.finalize_invoice(theirs.id, {})
    spent: list[int] = []
    end = from_us(world.clock.now_us()) + timedelta(seconds=1)
    held = world.adapter().list_held(start, end, asked=[], spend=lambda: spent.append(1), read_at=end)
    found = held.table("documents").to_pylist()
    ours = {one["delivery_id"]: one for one in found if one["delivery_id"] is not None}
    assert {row.delivery_id: (row.provider_id, abs(row.quantity or 0)) for row in rows_with_quantity(engine)} == {
        identity: (one["provider_id"], one["total"]) for identity, one in ours.items()
    }
    orphans = [(one["provider_id"], one["total"]) for one in found if one["delivery_id"] is None]
    assert orphans == [(theirs.id, Decimal("0.07"))]
    (lowered,) = [one["provider_id"] for one in found if one["invoice_id"] == "invoice-10"]
    assert [one["lowers"] for one in found if one["kind"] == "credit_note"] == [lowered]
    assert len(spent) == 3
    lines = held.table("lines").to_pylist()
    assert sum(one["amount"] for one in lines if one["currency"] == "USD") == sum(
        one["total"] for one in found if one["currency"] == "USD" and one["kind"] == "invoice"
    )
    nothing = world.adapter().list_held(end, end + timedelta(days=1), asked=[], spend=lambda: None, read_at=end)
    assert all(table.num_rows == 0 for table in nothing.tables.values())


def test_a_list_that_breaks_off_is_no_list() -> None:
    world, engine = StripeWorld(), books()
    deliver(world, engine, [Document(invoice(1, "1.99"))])
    start = from_us(world.clock.now_us()) - timedelta(days=1)
    world.fake.fault = lambda method, path: "throttled" if path == "/v1/invoices" else None
    with pytest.raises(ProviderAway, match="read it again"):
        world.adapter().list_held(start, start + timedelta(days=2), asked=[], spend=lambda: None, read_at=start)


def rows_with_quantity(engine: Engine) -> list[Delivery]:
    return [row for row in rows(engine) if row.quantity is not None]


def test_a_revoked_key_stops_delivery_and_harms_nothing() -> None:
    world, engine = StripeWorld(), books()
    world.fake.is_revoked = True
    with pytest.raises(AdapterMisconfigured, match="refuses our key"):
        deliver(world, engine, [Document(invoice(1, "49.00"))])
    world.fake.is_revoked = False
    deliver(world, engine, [Document(invoice(1, "49.00"))])
    assert [row.state for row in rows(engine)] == ["delivered"]


def test_over_http_with_the_sdk_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    world, engine = StripeWorld(), books()
    with serve(world.fake) as url:
        monkeypatch.setenv("TALLYBOOK_STRIPE_KEY", world.fake.api_key)
        adapter = make({"address": url, "lines_per_call": 2, "units": {"USD": {"digits": 2}}})
        assert isinstance(adapter, StripeAdapter)
        world.adapter = lambda: adapter  # type: ignore[method-assign]
        for how in ("lost", "throttled", "error", "error_after", "away"):
            world.fake.fail(how)
        deliver(world, engine, [Document(invoice(n, "49.00", "1.00", "2.00")) for n in range(1, 4)], passes=6)
    assert holdings(world.fake) == {f"invoice-{n}": ["5200 usd in 3 lines of 5200"] for n in range(1, 4)}
    assert {row.state for row in rows(engine)} == {"delivered"}


def test_without_a_key_nothing_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TALLYBOOK_STRIPE_KEY", raising=False)
    with pytest.raises(AdapterMisconfigured, match="TALLYBOOK_STRIPE_KEY"):
        make({})


def test_the_sdk_retries_nothing_by_itself() -> None:
    fake = StripeFake(StripeWorld().clock)
    fake.fail("error")
    with pytest.raises(stripe.APIError):
        fake.client().v1.customers.create({"name": "x"})
    assert len(fake.calls) == 1
