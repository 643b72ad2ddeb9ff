"""A seeded world in which delivery has everything against it: one number makes one story, the same each time.

Enters: a seed. Leaves: both sides, the books of deliveries and the fake Stripe, after the storm is over. In the story calls are
lost, throttled and failed (in storms, too), deliverers die at every step and before and after every call, others begin while one
is stopped between two bytes, leases and idempotency keys run out. What must be true at the end is said in `breaks`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import orjson
import stripe
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import StaticPool

from billing_adapters.adapter import Document, Lowered
from billing_adapters.books import (
    deliveries,
    provider_events,
)
from billing_adapters.deliver import Deliverer
from billing_adapters.deliveries import Delivery, list_deliveries
from billing_adapters.errors import AdapterMisconfigured
from billing_adapters.outcomes import Policy
from billing_adapters.payments import list_payments
from billing_adapters.stripe_adapter import StripeAdapter, StripeSettings
from billing_adapters.stripe_adapter.webhooks import StripeWebhooks
from billing_adapters.testing.contract import BEGINNING, Crashed
from billing_adapters.testing.stripe_fake import StripeFake
from billing_adapters.testing.stripe_server import InProcess
from metering.clock import FixedClock
from tests.billing_adapters.conftest import DELIVERY_TABLES
from tests.billing_adapters.invoices import invoice

FAILURES = ("lost", "away", "error", "error_after", "throttled", "conflict")
CURRENCIES = ("USD", "USD", "JPY", "KWD", "ISK")
# Time passes between two runs: moments, leases, hours, and sometimes longer than any key lives.
PAUSES = (timedelta(seconds=5), timedelta(minutes=2), timedelta(minutes=11), timedelta(hours=3), timedelta(hours=30))
PASSES_IN_THE_STORM, PASSES_AFTER_IT = 6, 60
NESTED_MAX = 2
KEYS_LIVE = timedelta(hours=24)
CREDITED, VOIDED = "credit_note", "void"


def empty_books() -> Engine:
    """Return books in memory, for speed; a story may be given others."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    make_tables(engine)
    return engine


def make_tables(engine: Engine) -> None:
    # The documents of the stories are not in the books; reconciliation looks for them there.
    deliveries.metadata.create_all(engine, tables=[*DELIVERY_TABLES, provider_events])


class Mortal(InProcess):
    """A transport whose process may die, or be stopped for long, just before and just after a call."""

    def __init__(self, story: Story) -> None:
        super().__init__(story.fake)
        self._story = story

    def request(
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None, **more: Any
    ) -> tuple[str, int, Mapping[str, str]]:
        self._story.moment("before a call")
        answer = super().request(method, url, headers, post_data, **more)
        self._story.moment("after a call")
        return answer


@dataclass
class Story:
    """One seed's world. `told` counts what happened, so that a test can show that everything did."""

    seed: int
    engine: Engine = field(default_factory=empty_books)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.clock = FixedClock(BEGINNING)
        self.fake = StripeFake(self.clock, fault=self._fault)
        self.told: Counter[str] = Counter()
        self.depth = 0
        self.is_calm = False
        self.failing = self.chance.choice((0.0, 0.05, 0.2, 0.5))
        self.dying = self.chance.choice((0.0, 0.01, 0.04))
        self.stopping = self.chance.choice((0.0, 0.01, 0.04))
        self.storm: str | None = None
        self.settings = StripeSettings(lines_per_call=self.chance.choice((1, 2, 3, 100)))
        self.documents = self._write_documents()

    # --- what is to be delivered --------------------------------------------------------------------------------------

    def _write_documents(self) -> list[Document]:
        carried: dict[str, Decimal] = {}
        made: list[Document] = []
        for number in range(1, self.chance.randint(2, 6)):
            account, currency = self.chance.choice(("acme", "globex", "initech")), self.chance.choice(CURRENCIES)
            digits = {"USD": 2, "JPY": 0, "KWD": 3, "ISK": 0}[currency]
            amounts = [
                f"{Decimal(self.chance.randint(-50, 99_999)).scaleb(-digits):f}"
                for _ in range(self.chance.randint(0, 7))
            ]
            amounts.append(f"{Decimal(200_000).scaleb(-digits):f}")
            one = invoice(number, *amounts, currency=currency, account=account)
            document = Document(one, f"{account} & Co", carried=carried.get(f"{account} {currency}", Decimal(0)))
            (intent,) = StripeAdapter(self.fake.client(), self.settings).prepare(document)
            carried[f"{account} {currency}"] = document.carried + (intent.amount or 0) - (intent.quantity or 0)
            made.append(document)
        return made

    def _write_endings(self) -> list[Document]:
        """Return credit notes and voids of some of the invoices."""
        made: list[Document] = []
        for at, document in enumerate(self.documents, start=1):
            one, how = document.invoice, self.chance.random()
            if how < 0.3 and one.currency != "KWD":
                amount = Decimal(self.chance.randint(1, 100_000)).scaleb(one.total.as_tuple().exponent)  # type: ignore[arg-type]
                note = invoice(900 + at, f"{-amount:f}", currency=one.currency, account=one.account_id,
                               document_type="credit_note", number=f"CN-{at:08}")  # fmt: skip
                made.append(Document(note, lowers=(Lowered(one.invoice_id, one.number or "", amount),)))
            elif how < 0.45:
                made.append(Document(replace(one, status="void")))
        return made

    # --- what happens -------------------------------------------------------------------------------------------------

    def play(self) -> Story:
        """Let the story happen, and then the calm after it."""
        self._deliver_in_the_storm(self.documents)
        self._become_calm()
        self._deliver_until_done()
        self._pay_some()
        self.documents += self._write_endings()
        self.is_calm = False
        self._deliver_in_the_storm(self.documents)
        self._become_calm()
        self._deliver_until_done()
        return self

    def _deliver_in_the_storm(self, documents: list[Document]) -> None:
        for _ in range(PASSES_IN_THE_STORM):
            self.storm = self.chance.choice(FAILURES) if self.chance.random() < 0.15 else None
            self.told["storm"] += self.storm is not None
            self._run(documents)
            self.clock.advance(self.chance.choice(PAUSES))

    def _deliver_until_done(self) -> None:
        for _ in range(PASSES_AFTER_IT):
            self._run(self.documents)
            if not [row for row in self.rows() if row.state in {"pending", "attempting"}]:
                return
            self.clock.advance(timedelta(minutes=16))

    def _become_calm(self) -> None:
        self.is_calm, self.storm = True, None

    def _pay_some(self) -> None:
        client = self.fake.client()
        for one in self.fake.store.all("invoice"):
            if one["status"] == "open" and self.chance.random() < 0.4:
                client.v1.invoices.pay(one["id"], {})

    def _run(self, documents: list[Document]) -> None:
        """One deliverer, from its birth to its end or its death."""
        client = stripe.StripeClient(self.fake.api_key, http_client=Mortal(self), max_network_retries=0)
        adapter = StripeAdapter(client, self.settings)
        self.told["deliverer"] += 1
        deliverer = Deliverer(
            self.engine,
            adapter,
            clock=self.clock,
            name=f"deliverer-{self.told['deliverer']}",
            policy=Policy(attempts_max=10_000),
            wait=lambda seconds: self.clock.advance(timedelta(seconds=seconds)),
            chance=self.chance.random,
            on_step=self.moment,
        )
        try:
            deliverer.outbox.enqueue([intent for one in documents for intent in adapter.prepare(one)])
            done = deliverer.run()
            self.told["lease lost"] += sum(type(error).__name__ == "LeaseLost" for error in done.errors)
            self.told.update({f"outcome {name}": number for name, number in done.outcomes.items()})
        except Crashed:
            self.told["died"] += 1
        except AdapterMisconfigured:
            self.told["stopped"] += 1

    def moment(self, where: str) -> None:
        """Between two steps the process may die, or stand still while another one does its work."""
        if self.is_calm:
            return
        if self.chance.random() < self.dying:
            self.told[f"died {where}"] += 1
            raise Crashed(where)
        if self.depth < NESTED_MAX and self.chance.random() < self.stopping:
            self.depth += 1
            self.told["stopped while another delivered"] += 1
            pause = self.chance.choice(PAUSES)
            self.told["stopped for longer than keys live"] += pause >= KEYS_LIVE
            self.clock.advance(pause)
            try:
                self._run(self.documents)
            finally:
                self.depth -= 1

    def _fault(self, method: str, path: str) -> str | None:
        if self.is_calm or not (method in {"post", "delete"} or self.chance.random() < 0.3):
            return None
        how = self.storm or (self.chance.choice(FAILURES) if self.chance.random() < self.failing else None)
        self.told[f"call {how}"] += how is not None
        return how

    # --- what is there in the end -------------------------------------------------------------------------------------

    def rows(self) -> list[Delivery]:
        with self.engine.connect() as connection:
            return list_deliveries(connection)

    def breaks(self) -> list[str]:
        """Return what is not as it must be; nothing, if all arrived exactly once and is ours."""
        found = [
            f"{row.kind} {row.subject} is {row.state}: {row.reason}" for row in self.rows() if not self._is_right(row)
        ]
        with self.engine.connect() as connection:
            payloads = {row.delivery_id: row.payload for row in connection.execute(deliveries.select())}
        wanted = {identity: orjson.loads(text) for identity, text in payloads.items()}
        final = [one for one in self.fake.store.all("invoice") if one["status"] != "draft"]
        held = Counter(one["metadata"]["tallybook_delivery"] for one in final)
        for identity, body in wanted.items():
            if "lines" in body and held[identity] != 1:
                found.append(f"{body['number']} is {held[identity]} times at Stripe")
        for one in final:
            body = wanted[one["metadata"]["tallybook_delivery"]]
            lines = [line["amount"] for line in body["lines"]]
            if (one["total"], [line["amount"] for line in one["lines"]]) != (body["total"], lines):
                found.append(f"{body['number']} is {one['total']} at Stripe, ours is {body['total']}")
        found += self._breaks_of_credits(wanted)
        found += self._breaks_of_voids()
        found += self._breaks_of_payments()
        return found + self._breaks_of_customers()

    def _breaks_of_customers(self) -> list[str]:
        """One customer per account, also where who made it stood still for longer than any key lives."""
        counted = Counter(one["metadata"]["tallybook_account"] for one in self.fake.store.all("customer"))
        return [f"{account} is {number} customers" for account, number in counted.items() if number != 1]

    def _breaks_of_credits(self, wanted: Mapping[str, Any]) -> list[str]:
        notes = Counter(one["metadata"]["tallybook_delivery"] for one in self.fake.store.all("credit_note"))
        found = [
            f"credit note {identity} is {number} times at Stripe" for identity, number in notes.items() if number != 1
        ]
        found += [
            f"credit note {one['id']} is {one['total']}"
            for one in self.fake.store.all("credit_note")
            if one["total"] != self._credited(wanted, one)
        ]
        delivered = {row.delivery_id for row in self.rows() if row.kind == CREDITED and row.state == "delivered"}
        return found + [f"credit note {identity} is not at Stripe" for identity in delivered - notes.keys()]

    def _credited(self, wanted: Mapping[str, Any], note: Mapping[str, Any]) -> int:
        """Return what a credit note must be: our amount, or, of the void of a paid invoice, all that was left of it."""
        body = wanted[note["metadata"]["tallybook_delivery"]]
        if "amount" in body:
            return int(body["amount"])
        paid = next(one for one in self.fake.store.all("invoice") if one["id"] == note["invoice"])
        others = [one["total"] for one in self.fake.store.all("credit_note") if one["invoice"] == note["invoice"]]
        return int(paid["total"] - sum(others) + note["total"])

    def _breaks_of_voids(self) -> list[str]:
        """What we voided is void at Stripe, or was paid and is credited as a whole, to the last unit."""
        void = {row.subject for row in self.rows() if row.kind == VOIDED and row.state == "delivered"}
        left = {
            one["id"]: one["total"] - one["pre_payment_credit_notes_amount"] - one["post_payment_credit_notes_amount"]
            for one in self.fake.store.all("invoice")
            if one["status"] not in {"draft", "void"} and one["metadata"]["tallybook_invoice"] in void
        }
        return [f"{identity} is void, and {units} of it stand at Stripe" for identity, units in left.items() if units]

    def _breaks_of_payments(self) -> list[str]:
        """Let all events come, twice and in no order; what the books know of payment is what Stripe says then."""
        client = self.fake.client()
        secrets = [self.fake.webhook_secret]
        receiver = StripeWebhooks(self.engine, client, secrets=lambda: secrets, clock=self.clock)
        events = self.fake.signed_webhooks() * 2
        self.chance.shuffle(events)
        for event in events:
            receiver.receive(*event)
        with self.engine.connect() as connection:
            known = {one.provider_id: (one.status, one.amount_remaining) for one in list_payments(connection)}
        final = [one for one in self.fake.store.all("invoice") if one["status"] != "draft"]
        there = {one["id"]: receiver.read(one["id"]) for one in final}
        return [
            f"{identity} is {one.status}, and the books know {known.get(identity)}"
            for identity, one in there.items()
            if known.get(identity) != (one.status, one.amount_remaining)
        ]

    def _is_right(self, row: Delivery) -> bool:
        """Is a delivery as it must be? All arrive but voids of what gave credit, which wait for a person with that reason."""
        if row.kind == VOIDED and row.state == "parked":
            return "correct the balance there" in row.reason
        return row.state == "delivered" and row.provider_id is not None
