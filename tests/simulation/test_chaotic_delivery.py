"""Chaos delivery: seeded stories in which everything goes wrong, and each invoice is at Stripe exactly once, with our amount."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import stripe

from billing_adapters.adapter import Answer, Document, Found
from billing_adapters.deliver import Deliverer
from billing_adapters.deliveries import list_deliveries
from billing_adapters.outbox import Claim, Outbox
from billing_adapters.outcomes import Outcome, Policy
from billing_adapters.stripe_adapter import StripeAdapter, StripeSettings
from billing_adapters.stripe_adapter.answers import answer_of
from billing_adapters.testing.contract import BEGINNING
from billing_adapters.testing.stripe_fake import StripeFake
from billing_adapters.testing.stripe_server import serve
from metering.clock import FixedClock
from tallybook.books import open_books
from tests.billing_adapters.invoices import invoice
from tests.billing_adapters.stripe_world import holdings
from tests.postgres import postgres_server, postgres_url  # noqa: F401 (fixtures)
from tests.simulation.chaotic_delivery import FAILURES, Story, make_tables

stripe.enable_telemetry = False
SHORT, LONG = 6, 3000
SEEDS_OF_DEFECTS = 60


def play(seeds: range) -> Counter[str]:
    told: Counter[str] = Counter()
    for seed in seeds:
        story = Story(seed).play()
        assert story.breaks() == [], f"seed {seed}: {story.breaks()}; {dict(story.told)}"
        told.update(story.told)
    return told


def test_everything_arrives_exactly_once_with_our_amount() -> None:
    told = play(range(SHORT))
    # A storm in which nothing happens proves nothing.
    assert all(told[f"call {how}"] for how in FAILURES), told
    assert all(told[name] for name in ("died before a call", "died after a call", "stopped while another delivered")), (
        told
    )


@pytest.mark.parametrize("seed", range(2))
def test_the_same_over_postgresql(seed: int, postgres_url: str) -> None:  # noqa: F811 (the fixture)
    engine = open_books(postgres_url)
    make_tables(engine)
    assert Story(seed, engine).play().breaks() == []
    engine.dispose()


@pytest.mark.prove
@pytest.mark.parametrize("part", range(10))
def test_thousands_of_stories(part: int, record_property: Callable[[str, object], None]) -> None:
    size = LONG // 10
    told = play(range(1000 + part * size, 1000 + (part + 1) * size))
    record_property("told", dict(told))


def test_three_deliverers_over_http_in_threads(tmp_path: Path) -> None:
    """The same over real sockets and a real file: three at once, calls lost and refused, and each invoice arrives once."""
    clock = FixedClock(BEGINNING)
    chance = random.Random(7)
    calm = threading.Event()

    def fault(_method: str, _path: str) -> str | None:
        return chance.choice(FAILURES) if not calm.is_set() and chance.random() < 0.2 else None

    fake = StripeFake(clock, fault=fault)
    documents = [Document(invoice(n, "49.00", "1.00", account=f"account-{n % 3}")) for n in range(1, 13)]
    engine = open_books(f"sqlite:///{tmp_path}/books.sqlite")
    make_tables(engine)

    def deliver(url: str, name: str) -> None:
        client = stripe.StripeClient(fake.api_key, base_addresses={"api": url}, max_network_retries=0)
        adapter = StripeAdapter(client, StripeSettings(lines_per_call=1))
        deliverer = Deliverer(
            engine, adapter, clock=clock, name=name, chance=lambda: 0.5, policy=Policy(attempts_max=10_000),
            wait=lambda seconds: clock.advance(timedelta(seconds=seconds)),
        )  # fmt: skip
        deliverer.outbox.enqueue([intent for one in documents for intent in adapter.prepare(one)])
        for _ in range(5):
            deliverer.run()
            clock.advance(timedelta(minutes=5))

    with serve(fake) as url:
        threads = [threading.Thread(target=deliver, args=(url, f"thread-{n}")) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        calm.set()
        for _ in range(10):
            clock.advance(timedelta(minutes=16))
            deliver(url, "the last")
    with engine.connect() as connection:
        assert {row.state for row in list_deliveries(connection)} == {"delivered"}
    assert holdings(fake) == {f"invoice-{n}": ["5000 usd in 2 lines of 5000"] for n in range(1, 13)}
    assert len(fake.store.all("customer")) == 3
    engine.dispose()


# --- stories can catch: one defect each ---------------------------------------------------------------------------------


def never_looks_for_invoices(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("billing_adapters.stripe_adapter.invoices._find", lambda *_args, **_more: None)
    patch.setattr("billing_adapters.stripe_adapter.adapter.look_for_invoice", lambda *_args: Found("absent"))


def never_looks_for_credit_notes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("billing_adapters.stripe_adapter.lowering.find_credit_note", lambda *_args: None)


def never_looks_for_customers(patch: pytest.MonkeyPatch) -> None:
    """Who does not look before has no connection of a look to write over; that alone would keep it from harm."""
    patch.setattr("billing_adapters.stripe_adapter.calls.IN_TIME", "not-in-time")
    patch.setattr(
        "billing_adapters.stripe_adapter.customers.find_customer",
        lambda calls, account_id, _settings: calls.linked("customer", account_id),
    )


def takes_silence_for_yes(patch: pytest.MonkeyPatch) -> None:
    def answer(error: stripe.StripeError) -> Answer:
        said = answer_of(error)
        return Answer(Outcome.ACCEPTED, "silence", "none") if error.http_status is None else said

    patch.setattr("billing_adapters.stripe_adapter.adapter.answer_of", answer)


def takes_failures_for_never(patch: pytest.MonkeyPatch) -> None:
    def answer(error: stripe.StripeError) -> Answer:
        said = answer_of(error)
        return replace(said, outcome=Outcome.REJECTED_PERMANENT) if error.http_status == 500 else said

    patch.setattr("billing_adapters.stripe_adapter.adapter.answer_of", answer)


def forgets_what_was_interrupted(patch: pytest.MonkeyPatch) -> None:
    take = Outbox._take

    def forgetful(self: Outbox, *arguments: Any) -> Claim:
        claim = take(self, *arguments)
        return replace(claim, is_uncertain=False, item=replace(claim.item, is_resumed=False, progress={}))

    patch.setattr(Outbox, "_take", forgetful)


@pytest.mark.parametrize(
    "defect",
    [
        never_looks_for_credit_notes,
        takes_silence_for_yes,
        takes_failures_for_never,
        # These need a rarer coincidence, and so more stories.
        pytest.param(never_looks_for_invoices, marks=pytest.mark.prove),
        pytest.param(never_looks_for_customers, marks=pytest.mark.prove),
        pytest.param(forgets_what_was_interrupted, marks=pytest.mark.prove),
    ],
)
def test_a_defect_makes_a_story_break(
    defect: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    defect(monkeypatch)
    assert any(Story(seed).play().breaks() for seed in range(SEEDS_OF_DEFECTS))
