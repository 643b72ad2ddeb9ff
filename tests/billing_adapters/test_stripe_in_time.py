"""Writes that must not come late: who stood still for longer than a key lives, after looking, writes nothing any more."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
import stripe
from sqlalchemy import Engine

from billing_adapters.adapter import Document, Lowered
from billing_adapters.deliver import Deliverer
from billing_adapters.stripe_adapter import StripeAdapter
from billing_adapters.stripe_adapter.credit_grants import StripeCreditAdapter
from billing_adapters.stripe_adapter.one_connection import IN_TIME, OneConnection
from billing_adapters.testing.contract import AdapterContract
from billing_adapters.testing.loopback import QuietHandler, serve_handler
from billing_adapters.testing.stripe_server import InProcess
from rating.balances import Balance
from tests.billing_adapters.invoices import invoice
from tests.billing_adapters.stripe_world import SETTINGS, StripeWorld

MANY = timedelta(days=3)
CREDIT = invoice(9, "-40.00", document_type="credit_note", number="CN-00000001")


class Stopped(InProcess):
    """A process that stands still once, for days, between its last look and a write; meanwhile another one does the work."""

    def __init__(self, world: StripeWorld, path: str, meanwhile: Callable[[], object]) -> None:
        super().__init__(world.fake)
        self._world, self._path, self._meanwhile = world, path, meanwhile
        self.stood = 0

    def request(
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None, **more: Any
    ) -> tuple[str, int, Mapping[str, str]]:
        if method == "post" and url.endswith(self._path) and not self.stood:
            self.stood += 1
            # Longer than its lease, so that another one takes over; and then for longer than any key lives.
            self._world.clock.advance(timedelta(minutes=11))
            self._meanwhile()
            self._world.clock.advance(MANY)
        return super().request(method, url, headers, post_data, **more)


def deliverer(world: StripeWorld, engine: Engine, make: Callable[..., Any], transport: Any = None) -> Deliverer:
    client = world.client if transport is None else stripe.StripeClient(world.fake.api_key, http_client=transport)
    wait: Callable[[float], None] = lambda seconds: world.clock.advance(timedelta(seconds=seconds))  # noqa: E731
    return Deliverer(engine, make(client, SETTINGS), clock=world.clock, wait=wait, chance=lambda: 0.5)


def delivered_by_two(world: StripeWorld, engine: Engine, make: Callable[..., Any], source: object, path: str) -> None:
    """Let one deliverer stop before a write while another one delivers; then let whoever comes finish what is open."""
    other = deliverer(world, engine, make)
    first = Stopped(world, path, other.run)
    stopped = deliverer(world, engine, make, first)
    stopped.outbox.enqueue(make(world.client, SETTINGS).prepare(source))
    stopped.run()
    assert first.stood == 1
    for _ in range(3):
        world.clock.advance(timedelta(minutes=16))
        other.run()
    assert other.outbox.next_due_at() is None


def test_a_customer_is_made_once(world: StripeWorld, engine: Engine) -> None:
    delivered_by_two(world, engine, StripeAdapter, Document(invoice(1, "49.00")), "/v1/customers")
    assert len(world.fake.store.all("customer")) == 1
    assert [one["total"] for one in world.fake.store.all("invoice") if one["status"] != "draft"] == [4900]


@pytest.mark.parametrize("is_paid", [False, True])
def test_a_credit_note_is_made_once(world: StripeWorld, engine: Engine, is_paid: bool) -> None:
    deliver(world, engine, Document(invoice(1, "100.00")), is_paid=is_paid)
    document = Document(CREDIT, lowers=(Lowered("invoice-1", "INV-00000001", Decimal("40.00")),))
    delivered_by_two(world, engine, StripeAdapter, document, "/v1/credit_notes")
    assert [one["total"] for one in world.fake.store.all("credit_note")] == [4000]


def test_what_was_paid_is_credited_once_when_it_is_voided(world: StripeWorld, engine: Engine) -> None:
    one = invoice(1, "100.00")
    deliver(world, engine, Document(one), is_paid=True)
    delivered_by_two(world, engine, StripeAdapter, Document(replace(one, status="void")), "/v1/credit_notes")
    assert [one["total"] for one in world.fake.store.all("credit_note")] == [10_000]


def test_a_credit_grant_is_made_once(world: StripeWorld, engine: Engine) -> None:
    balance = Balance.model_validate(
        {"id": "b1", "account": "acme-inc", "currency": "USD", "amount": "7.50", "effective": "2026-11-01"}
    )
    delivered_by_two(world, engine, StripeCreditAdapter, balance, "/v1/billing/credit_grants")
    assert len(world.fake.store.all("billing.credit_grant")) == 1


def deliver(world: StripeWorld, engine: Engine, document: Document, *, is_paid: bool) -> None:
    one = deliverer(world, engine, StripeAdapter)
    one.outbox.enqueue(StripeAdapter(world.client, SETTINGS).prepare(document))
    one.run()
    (held,) = world.fake.store.all("invoice")
    if is_paid:
        world.client.v1.invoices.pay(held["id"], {})


@pytest.fixture
def world() -> StripeWorld:
    return StripeWorld()


@pytest.fixture
def engine() -> Engine:
    return AdapterContract().open_books()


# --- over sockets -------------------------------------------------------------------------------------------------------


@contextmanager
def counting_server() -> Iterator[tuple[str, list[str]]]:
    """Serve empty lists; give the address, and what happened: `connection`, or a method with the mark if one came."""
    seen: list[str] = []

    class Handler(QuietHandler):
        def setup(self) -> None:
            seen.append("connection")
            super().setup()

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            seen.append(f"{self.command}{' marked' * (IN_TIME in self.headers)}")
            body = json.dumps({"object": "list", "data": [], "id": "cus_1", "has_more": False}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            # As a server does with a connection that was silent for long: it says nothing of it.
            self.close_connection = self.path.endswith("limit=1")

    with serve_handler(Handler) as url:
        yield url, seen


def test_a_write_in_time_opens_no_connection() -> None:
    options: Any = {"headers": {IN_TIME: "1"}}
    with counting_server() as (url, seen):
        client = stripe.StripeClient(
            "sk", base_addresses={"api": url}, http_client=OneConnection(), max_network_retries=0
        )
        with pytest.raises(stripe.APIConnectionError, match="not sent"):
            client.v1.customers.create({}, options)
        assert seen == []
        client.v1.customers.list({})
        client.v1.customers.create({}, options)
        # One connection, and the mark stays at home.
        assert seen == ["connection", "GET", "POST"]
        client.v1.customers.list({"limit": 1})
        with pytest.raises(stripe.APIConnectionError):
            client.v1.customers.create({}, options)
        assert seen == ["connection", "GET", "POST", "GET"]
        client.v1.customers.create({})
        assert seen[4:] == ["connection", "POST"]
        client._requestor._client.close()
