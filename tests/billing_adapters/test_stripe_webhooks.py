"""Stripe's events: only signed ones, from now, each once, in any order; and the state of payment that they bring back."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import stripe
from sqlalchemy import Engine, insert

from billing_adapters.adapter import Document
from billing_adapters.books import payments, provider_events
from billing_adapters.deliver import Deliverer
from billing_adapters.errors import EventRefused
from billing_adapters.payments import list_payments
from billing_adapters.settlements import read_settlements
from billing_adapters.stripe_adapter.webhooks import StripeWebhooks
from metering.clock import from_us
from metering.control_points import COLLECTED, read_points
from metering.usage import Snapshot
from rating.books import invoices, number_series
from rating.close import Close, write_close
from rating.invoice import Invoice, content_hash
from tallybook.books import metadata, open_books
from tests.billing_adapters.conftest import DELIVERY_TABLES
from tests.billing_adapters.invoices import invoice
from tests.billing_adapters.stripe_world import StripeWorld


@pytest.fixture
def world() -> StripeWorld:
    return StripeWorld()


@pytest.fixture
def engine(books: Engine) -> Engine:
    metadata.create_all(books, tables=[payments, provider_events])
    return books


def receiver(world: StripeWorld, engine: Engine, *secrets: str) -> StripeWebhooks:
    known = list(secrets) or [world.fake.webhook_secret]
    return StripeWebhooks(engine, world.client, secrets=lambda: known, clock=world.clock)


def deliver(world: StripeWorld, engine: Engine, *documents: Document) -> None:
    adapter = world.adapter()
    deliverer = Deliverer(engine, adapter, clock=world.clock, wait=lambda s: world.clock.advance(timedelta(seconds=s)))
    deliverer.outbox.enqueue([intent for one in documents for intent in adapter.prepare(one)])
    deliverer.run()


def known(engine: Engine) -> list[tuple[str | None, str, str, str]]:
    with engine.connect() as connection:
        return [(one.invoice_id, one.status, str(one.amount_paid), str(one.amount_remaining))
                for one in list_payments(connection)]  # fmt: skip


def test_payment_comes_back_whatever_the_order_and_however_often(world: StripeWorld, engine: Engine) -> None:
    deliver(world, engine, Document(invoice(1, "49.00")), Document(invoice(2, "1234", currency="JPY")))
    first = next(one for one in world.fake.store.all("invoice") if one["number"] == "INV-00000001")
    world.client.v1.invoices.pay(first["id"], {})
    events = world.fake.signed_webhooks() * 2
    taken = receiver(world, engine)
    expected = [("invoice-1", "paid", "49.00", "0.00"), ("invoice-2", "open", "0", "1234")]
    for seed in range(3):
        random.Random(seed).shuffle(events)
        said = [taken.receive(*event) for event in events]
        assert set(said) <= {"taken", "known", "ignored"}
        assert known(engine) == expected
    assert said.count("taken") == 0


def book_document(engine: Engine, one: Invoice) -> None:
    """Put the row of a document into the books, with the close that it follows from."""
    close = Close(
        one.close_id, one.period_start, one.period_end, 1, 1, one.issued_at, True, "period", Snapshot.of({}), 1, True
    )
    heads = {name: getattr(one, name) for name in Invoice.__slots__ if name in invoices.c}
    row = {**heads, "series": "INV", "snapshot_id": close.snapshot.snapshot_id, "content_hash": content_hash(one)}
    with engine.begin() as connection:
        write_close(connection, close)
        connection.execute(insert(invoices).values(row))


def test_what_events_tell_of_payment_is_booked_once_in_both_databases(world: StripeWorld, engine: Engine) -> None:
    """Any order, twice, and by four receivers at once: the settlement is one, on the day of the payment."""
    metadata.create_all(engine, tables=[number_series])
    one = invoice(1, "49.00")
    book_document(engine, one)
    deliver(world, engine, Document(one))
    (there,) = world.fake.store.all("invoice")
    world.clock.advance(timedelta(hours=1))
    world.client.v1.invoices.pay(there["id"], {})
    events = world.fake.signed_webhooks() * 2
    failures: list[BaseException] = []

    def take(seed: int) -> None:
        mine = list(events)
        random.Random(seed).shuffle(mine)
        try:
            for event in mine:
                receiver(world, engine).receive(*event)
        except BaseException as failure:  # noqa: BLE001 (told to the test)
            failures.append(failure)

    threads = [threading.Thread(target=take, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with engine.connect() as connection:
        (settled,) = read_settlements(connection)
    paid_at = from_us(there["status_transitions"]["paid_at"] * 1_000_000)
    assert (settled.kind, settled.amount, settled.invoice_id, settled.account_id) == (
        "payment", Decimal("49.00"), "invoice-1", "acme-inc",
    )  # fmt: skip
    assert (settled.paid_at, settled.posted_at, settled.sequence) == (paid_at, paid_at, 1)


def test_each_event_writes_once_what_it_told_of_payment(world: StripeWorld, engine: Engine) -> None:
    deliver(world, engine, Document(invoice(1, "49.00")))
    [there] = world.fake.store.all("invoice")
    opened = world.fake.signed_webhooks()
    taken = receiver(world, engine)
    said = [taken.receive(*event) for event in opened]
    world.client.v1.invoices.pay(there["id"], {})
    said += [taken.receive(*event) for event in [*opened, *world.fake.signed_webhooks()]]
    with engine.connect() as connection:
        points = read_points(connection, COLLECTED)
    # One per event that was taken, none again for one that is known.
    assert len(points) == said.count("taken") >= 2
    assert {(one.reason, one.amount) for one in points} == {("open", Decimal(0)), ("paid", Decimal("49.00"))}
    assert {(one.adapter, one.currency, one.previous_batch_id) for one in points} == {("stripe", "USD", "invoice-1")}


def test_an_older_reading_never_takes_the_place_of_a_newer_one(world: StripeWorld, engine: Engine) -> None:
    deliver(world, engine, Document(invoice(1, "49.00")))
    (opened,) = world.fake.store.all("invoice")
    taken = receiver(world, engine)
    slow = taken.read(opened["id"])
    world.clock.advance(timedelta(seconds=1))
    world.client.v1.invoices.pay(opened["id"], {})
    for event in world.fake.signed_webhooks():
        taken.receive(*event)
    from billing_adapters.payments import keep_payment

    with engine.begin() as connection:
        keep_payment(connection, slow)
    assert known(engine) == [("invoice-1", "paid", "49.00", "0.00")]


@pytest.mark.parametrize("seconds", [-301, 301])
def test_what_was_signed_too_long_ago_or_ahead_is_refused(world: StripeWorld, engine: Engine, seconds: int) -> None:
    deliver(world, engine, Document(invoice(1, "49.00")))
    event = world.fake.signed_webhooks()[-1]
    world.clock.advance(timedelta(seconds=seconds))
    with pytest.raises(EventRefused, match="look at this machine's clock"):
        receiver(world, engine).receive(*event)
    world.clock.advance(timedelta(seconds=-seconds + 299))
    assert receiver(world, engine).receive(*event) == "taken"


def test_only_our_secrets_count_and_two_while_one_is_rolled(world: StripeWorld, engine: Engine) -> None:
    deliver(world, engine, Document(invoice(1, "49.00")))
    body, signature = world.fake.signed_webhooks()[-1]
    for wrong in (signature[:-1] + "0" * (signature[-1] != "0") + "1" * (signature[-1] == "0"), "t=x,v1=y", "", None):
        with pytest.raises(EventRefused):
            receiver(world, engine).receive(body, wrong)
    with pytest.raises(EventRefused, match="not signed with a secret of ours"):
        receiver(world, engine).receive(body + b" ", signature)
    with pytest.raises(EventRefused, match="not signed"):
        receiver(world, engine, "whsec_other").receive(body, signature)
    assert receiver(world, engine, "whsec_new", world.fake.webhook_secret).receive(body, signature) == "taken"
    assert known(engine) == [("invoice-1", "open", "0.00", "49.00")]


def test_an_event_whose_invoice_cannot_be_read_comes_again(world: StripeWorld, engine: Engine) -> None:
    deliver(world, engine, Document(invoice(1, "49.00")))
    event = world.fake.signed_webhooks()[-1]
    taken = receiver(world, engine)
    world.fake.fault = lambda method, _path: "error" if method == "get" else None
    with pytest.raises(stripe.APIError):
        taken.receive(*event)
    assert taken.status_of(*event) == 500
    world.fake.fault = lambda _method, _path: None
    assert taken.receive(*event) == "taken"


def test_the_endpoint_answers_by_what_became_of_it(world: StripeWorld, engine: Engine) -> None:
    deliver(world, engine, Document(invoice(1, "49.00")))
    body, signature = world.fake.signed_webhooks()[-1]
    taken = receiver(world, engine)

    def post(parts: list[bytes], header: str, method: str = "POST") -> int:
        left: Iterator[bytes] = iter(parts)
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            part = next(left)
            return {"type": "http.request", "body": part, "more_body": part is not parts[-1]}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "method": method, "headers": [(b"Stripe-Signature", header.encode())]}
        asyncio.run(taken.asgi(scope, receive, send))
        return int(sent[0]["status"])

    assert post([body[:10], body[10:]], signature) == 200
    assert post([body], signature) == 200
    assert post([body], "t=1,v1=0") == 400
    assert post([b""], signature, "GET") == 405
    assert post([b"x" * (1 << 20), b"y", b""], signature) == 413


def test_payments_are_kept_in_both_databases_by_name(tmp_path: Path) -> None:
    engine = open_books(f"sqlite:///{tmp_path}/books.sqlite")
    metadata.create_all(engine, tables=[*DELIVERY_TABLES, provider_events])
    world = StripeWorld()
    deliver(world, engine, Document(invoice(1, "1.234", currency="KWD")))
    for event in world.fake.signed_webhooks():
        receiver(world, engine).receive(*event)
    with engine.connect() as connection:
        (one,) = list_payments(connection, invoice_ids=["invoice-1"])
        assert list_payments(connection, invoice_ids=["invoice-2"]) == []
    assert (one.total, one.currency) == (Decimal("1.230"), "KWD")
    engine.dispose()
