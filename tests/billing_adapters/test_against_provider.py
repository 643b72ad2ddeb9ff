"""From paper to payment: nothing unexplained in any world of delivery, and each difference in its bucket, to the cent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy import Engine

from billing_adapters.adapter import Document, Lowered
from billing_adapters.deliver import Deliverer
from billing_adapters.outbox import Outbox
from billing_adapters.provider_list import ProviderList
from billing_adapters.reconciliation.against_provider import Compared, compare, documents_of, net_of_documents
from billing_adapters.reconciliation.inputs import register_given
from billing_adapters.reconciliation.statement import COLLECTION_EQUATIONS, UNEXPLAINED, ConservationRow
from billing_adapters.sent_list import sent_documents
from billing_adapters.stripe_adapter import StripeAdapter
from metering.clock import from_us
from rating.invoice import Invoice
from tests.billing_adapters.invoices import invoice
from tests.billing_adapters.stripe_world import StripeWorld
from tests.rated import engine
from tests.simulation.chaotic_delivery import Story, empty_books

NOVEMBER = (datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))


def given_of(books: Engine, documents: list[Invoice], held: ProviderList | None) -> dict[str, pa.Table]:
    """Return what controls and equations read of one adapter's side and of its provider's."""
    with books.connect() as connection:
        sent = sent_documents(connection, "stripe")
    since = pa.table({"adapter": ["stripe"], "delivers_from": pa.array([NOVEMBER[0]], pa.timestamp("us", tz="UTC"))})
    given = {**documents_of(documents), "sent_document": sent, "delivering_adapter": since}
    if held is not None:
        given |= {"provider_document": held.table("documents"), "provider_payment": held.table("payments")}
    return given


def rows_of(books: Engine, documents: list[Invoice], held: ProviderList | None, **more: Any) -> list[ConservationRow]:
    asked = engine()
    register_given(asked, given_of(books, documents, held))
    tables = frozenset() if held is None else frozenset(held.tables)
    return compare(asked, [Compared("stripe", tables, **more)], *NOVEMBER)


def buckets(rows: list[ConservationRow], equation: str, currency: str = "USD") -> dict[str, str]:
    """Return what the buckets of an equation hold, without those that hold nothing."""
    return {
        row.bucket: f"{row.amount.normalize():f}"
        for row in rows
        if row.equation == equation and row.currency == currency and row.amount
    }


def unexplained(rows: list[ConservationRow]) -> list[ConservationRow]:
    return [row for row in rows if row.bucket == UNEXPLAINED and row.amount]


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_unexplained_after_any_storm(seed: int) -> None:
    story = Story(seed).play()
    # The newest document of each is what it became in the end: a void took back what its invoice asked for.
    documents = {document.invoice.invoice_id: document.invoice for document in story.documents}
    now = from_us(story.clock.now_us())
    client = story.fake.client()
    held = StripeAdapter(client, story.settings).list_held(
        now - timedelta(days=300), now + timedelta(seconds=1), asked=[], spend=lambda: None, read_at=now
    )
    rows = rows_of(story.engine, list(documents.values()), held)
    assert {row.equation for row in rows} == COLLECTION_EQUATIONS.keys() - {"net"}
    assert unexplained(rows) == []
    assert not [row for row in rows if row.bucket == "provider_difference" and row.amount], story.told
    asked_for = sum(one.amount_due for one in documents.values() if one.status == "final" and one.currency == "USD")
    assert (
        sum(
            row.amount or 0
            for row in rows
            if (row.equation, row.bucket, row.currency) == ("invoiced", "invoiced", "USD")
        )
        == asked_for
    )


class Shop:
    """Three invoices at Stripe, and what happens to them."""

    def __init__(self) -> None:
        self.world, self.books = StripeWorld(), empty_books()
        self.documents = {n: invoice(n, f"{n}00.00") for n in (1, 2, 3)}
        self.deliver(*map(Document, self.documents.values()))

    @property
    def client(self) -> Any:
        return self.world.client.v1

    def deliver(self, *documents: Document) -> None:
        clock = self.world.clock
        deliverer = Deliverer(
            self.books, self.world.adapter(), clock=clock, wait=lambda s: clock.advance(timedelta(seconds=s))
        )
        deliverer.outbox.enqueue([one for document in documents for one in self.world.adapter().prepare(document)])
        deliverer.run()

    def at_stripe(self, number: int) -> dict[str, Any]:
        (found,) = [one for one in self.world.fake.store.all("invoice")
                    if one["metadata"].get("tallybook_invoice") == f"invoice-{number}"]  # fmt: skip
        return found

    def held(self) -> ProviderList:
        now = from_us(self.world.clock.now_us())
        adapter = self.world.adapter()
        return adapter.list_held(NOVEMBER[0], NOVEMBER[1], asked=[], spend=lambda: None, read_at=now)

    def rows(self, **more: Any) -> list[ConservationRow]:
        rows = rows_of(self.books, list(self.documents.values()), self.held(), **more)
        assert unexplained(rows) == []
        return rows


def test_what_is_clean_is_confirmed_held_and_open() -> None:
    rows = Shop().rows()
    assert buckets(rows, "invoiced") == {"invoiced": "600", "confirmed": "600"}
    assert buckets(rows, "confirmed") == {"confirmed": "600", "provider": "600"}
    assert buckets(rows, "provider") == {"provider": "600", "open": "600"}


def test_payments_credit_notes_and_what_is_written_off_have_their_buckets() -> None:
    shop = Shop()
    shop.client.invoices.pay(shop.at_stripe(1)["id"], {})
    # A part of the second was paid.
    shop.at_stripe(2).update(amount_paid=5_000, amount_remaining=15_000)
    shop.client.invoices.mark_uncollectible(shop.at_stripe(3)["id"], {})
    lowers = (Lowered("invoice-1", "INV-00000001", Decimal("30")), Lowered("invoice-2", "INV-00000002", Decimal("20")))
    note = invoice(9, "-50.00", document_type="credit_note", number="CN-00000001")
    shop.documents[9] = note
    shop.deliver(Document(note, lowers=lowers))
    rows = shop.rows()
    assert buckets(rows, "invoiced") == {"invoiced": "550", "confirmed": "550"}
    assert buckets(rows, "provider") == {
        "provider": "550",
        "paid": "150",
        "open": "130",
        "refunds": "-30",
        "written_off": "300",
    }


def test_a_void_takes_back_what_its_invoice_brought() -> None:
    shop = Shop()
    shop.documents[3] = invoice(3, "300.00", status="void")
    assert buckets(shop.rows(), "invoiced") == {"invoiced": "300", "confirmed": "600", "not_sent": "-300"}
    shop.deliver(Document(shop.documents[3]))
    rows = shop.rows()
    assert buckets(rows, "invoiced") == {"invoiced": "300", "confirmed": "300"}
    assert buckets(rows, "confirmed") == {"confirmed": "300", "provider": "300"}


def test_what_was_not_delivered_says_where_it_is() -> None:
    shop = Shop()
    shop.documents[4] = invoice(4, "480.00")
    assert buckets(shop.rows(), "invoiced") == {"invoiced": "1080", "confirmed": "600", "not_sent": "480"}
    adapter = shop.world.adapter()
    Outbox(shop.books, adapter.capabilities, shop.world.clock).enqueue(adapter.prepare(Document(shop.documents[4])))
    assert buckets(shop.rows(), "invoiced") == {"invoiced": "1080", "confirmed": "600", "pending": "480"}


def test_what_was_done_at_the_provider_is_a_difference() -> None:
    shop = Shop()
    shop.client.invoices.void_invoice(shop.at_stripe(1)["id"], {})
    hand_made = shop.client.invoices.create({"customer": shop.at_stripe(2)["customer"], "currency": "usd"})
    shop.client.invoices.add_lines(hand_made.id, {"lines": [{"amount": 7_500}]})
    shop.client.invoices.finalize_invoice(hand_made.id, {})
    rows = shop.rows()
    assert buckets(rows, "confirmed") == {"confirmed": "600", "provider": "575", "provider_difference": "25"}
    # Both are there, each with its sign: nothing is netted below the total.
    found = (
        engine()
        .sql("SELECT status, amount_difference FROM document_match WHERE status <> 'match' ORDER BY ALL")
        .fetchall()
    )
    assert found == [("amount_differs", -100), ("only_theirs", 75)]


def test_what_is_too_young_is_timing() -> None:
    shop = Shop()
    shop.client.invoices.void_invoice(shop.at_stripe(1)["id"], {})
    rows = shop.rows(settled_before=NOVEMBER[0])
    assert buckets(rows, "confirmed") == {"confirmed": "600", "provider": "500", "timing": "100"}


def test_what_arrived_and_was_not_confirmed_is_timing() -> None:
    shop = Shop()
    shop.documents[4] = invoice(4, "480.00")
    finalized = []

    def lose(method: str, path: str) -> str | None:
        if path.endswith("/finalize"):
            finalized.append(path)
            return "lost"
        return "away" if finalized else None

    shop.world.fake.fault = lose
    clock = shop.world.clock
    deliverer = Deliverer(shop.books, shop.world.adapter(), clock=clock, wait=lambda _s: None)
    deliverer.outbox.enqueue(shop.world.adapter().prepare(Document(shop.documents[4])))
    deliverer.run(limit=1)
    shop.world.fake.fault = lambda _method, _path: None
    rows = shop.rows()
    assert buckets(rows, "invoiced") == {"invoiced": "1080", "confirmed": "600", "pending": "480"}
    assert buckets(rows, "confirmed") == {"confirmed": "600", "provider": "1080", "timing": "-480"}


def test_what_the_provider_moved_to_the_balance_of_a_customer_is_explained() -> None:
    shop = Shop()
    shop.documents[4] = invoice(4, "0.30")
    shop.deliver(Document(shop.documents[4]))
    assert buckets(shop.rows(), "provider") == {"provider": "600.3", "open": "600", "to_balance": "0.3"}


def test_a_payment_that_does_not_add_up_is_unexplained() -> None:
    shop = Shop()
    shop.at_stripe(1)["amount_remaining"] -= 1
    rows = rows_of(shop.books, list(shop.documents.values()), shop.held())
    assert [(row.equation, row.amount) for row in unexplained(rows)] == [("provider", Decimal("0.01"))]


def test_charges_lines_and_documents_are_compared() -> None:
    register_given(engine(), documents_of([invoice(1, "100.00")]))
    rows = net_of_documents(engine())
    # The helper's lines have no charges behind them, so all of it is unexplained.
    assert buckets(rows, "net") == {"invoiced": "100", UNEXPLAINED: "-100"}
