"""What delivery costs beside the calls themselves: invoices through the outbox to the fake Stripe, and the same calls bare.

Enters: nothing. Leaves: processor time and calls per invoice, as ratios to the same three calls by the SDK alone (create, add
lines, finalize) in the same run; and claims with few and with many deliveries waiting, because a queue must not grow slow. The
fake works in the same process, and its time is in both.
"""

from __future__ import annotations

import resource
import tempfile
import time
from datetime import UTC, datetime, timedelta

import stripe
from sqlalchemy import Engine

from benchmarks.figures import Figure
from billing_adapters.adapter import Document
from billing_adapters.deliver import Deliverer
from billing_adapters.outbox import Outbox
from billing_adapters.stripe_adapter import StripeAdapter, StripeSettings
from billing_adapters.testing.stripe_fake import StripeFake
from metering.clock import FixedClock
from tallybook.books import migrate, open_books
from tests.billing_adapters.invoices import invoice

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
LINES = ["10.00"] * 10
ACCOUNTS = 200
CALLS_PER_S = 100


def run(quick: bool) -> list[Figure]:
    """Return the figures of this benchmark. `quick`: few invoices, a smoke test."""
    stripe.enable_telemetry = False
    invoices, waiting = (200, 2_000) if quick else (5_000, 100_000)
    bare_s = _bare(invoices)
    with tempfile.TemporaryDirectory() as folder:
        engine = open_books(f"sqlite:///{folder}/books.sqlite")
        migrate(engine)
        figures = _delivered(engine, invoices, bare_s)
        figures += _claims(engine, waiting)
        engine.dispose()
    return figures


def _bare(invoices: int) -> float:
    """Return seconds of processor time per invoice of the SDK's own three calls."""
    fake = StripeFake(FixedClock(NOW))
    v1 = fake.client().v1
    customer = v1.customers.create({"name": "bare"}).id
    began = time.process_time()
    for _ in range(invoices):
        made = v1.invoices.create({"customer": customer, "currency": "usd"})
        v1.invoices.add_lines(made.id, {"lines": [{"amount": 1000, "description": "Tokens"} for _ in LINES]})
        v1.invoices.finalize_invoice(made.id, {})
    return (time.process_time() - began) / invoices


def _delivered(engine: Engine, invoices: int, bare_s: float) -> list[Figure]:
    clock = FixedClock(NOW)
    fake = StripeFake(clock, writes_per_s=CALLS_PER_S)
    adapter = StripeAdapter(fake.client(), StripeSettings())
    deliverer = Deliverer(
        engine, adapter, clock=clock, wait=lambda s: clock.advance(timedelta(seconds=s)), calls_per_s=CALLS_PER_S
    )
    began = time.process_time()
    _enqueue(deliverer.outbox, adapter, 0, invoices)
    enqueued_s = (time.process_time() - began) / invoices
    began, provider_began = time.process_time(), clock.now_us()
    # In two runs, as if the first had been stopped: the second goes on where it was.
    states = deliverer.run(limit=invoices // 2).states + deliverer.run().states
    delivered_s = (time.process_time() - began) / invoices
    calls = len(fake.calls)
    pace = calls / ((clock.now_us() - provider_began) / 1_000_000)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if states["delivered"] != invoices or len(fake.store.all("invoice")) != invoices:
        raise RuntimeError(f"{states} of {invoices} were delivered")
    return [
        _figure(
            "the three calls bare, per invoice of 10 lines",
            bare_s * 1000,
            "ms",
            None,
            None,
            "processor time, SDK and fake",
        ),
        _figure(
            "delivered, per invoice", delivered_s * 1000, "ms", delivered_s / bare_s, "bare", f"{invoices:,} invoices"
        ),
        _figure(
            "enqueued, per invoice", enqueued_s * 1000, "ms", enqueued_s / bare_s, "bare", "prepared and written down"
        ),
        _figure("calls per invoice", calls / invoices, "calls", None, None, f"with {ACCOUNTS} new customers"),
        _figure(
            "calls per second of the provider's clock",
            pace,
            "calls/s",
            None,
            None,
            f"declared: {CALLS_PER_S}; 429s: none",
        ),
        _figure("memory at the most", peak, "MiB", None, None, "the whole process, with the fake's own objects"),
    ]


def _claims(engine: Engine, waiting: int) -> list[Figure]:
    """Measure claiming and giving back twenty, with few and with many others waiting."""
    clock = FixedClock(NOW)
    adapter = StripeAdapter(StripeFake(clock).client(), StripeSettings())
    outbox = Outbox(engine, adapter.capabilities, clock)
    _enqueue(outbox, adapter, 1_000_000, 100)
    few_s = _claim_s(outbox)
    _enqueue(outbox, adapter, 2_000_000, waiting)
    many_s = _claim_s(outbox)
    return [
        _figure("claim of 20, 100 waiting", few_s * 1000, "ms", None, None, "processor time"),
        _figure(
            f"claim of 20, {waiting:,} waiting", many_s * 1000, "ms", many_s / few_s, "100 waiting", "processor time"
        ),
    ]


def _claim_s(outbox: Outbox) -> float:
    taken = []
    for _ in range(15):
        began = time.process_time()
        claims = outbox.claim("benchmark", 20, timedelta(minutes=10))
        taken.append(time.process_time() - began)
        for claim in claims:
            outbox.release(claim, "measured")
    return sorted(taken)[len(taken) // 2]


def _enqueue(outbox: Outbox, adapter: StripeAdapter, first: int, number: int) -> None:
    for at in range(0, number, 500):
        documents = [
            Document(invoice(first + n, *LINES, account=f"account-{n % ACCOUNTS}"), f"Account {n % ACCOUNTS}")
            for n in range(at, min(number, at + 500))
        ]
        outbox.enqueue([intent for one in documents for intent in adapter.prepare(one)])


def _figure(name: str, value: float, unit: str, ratio: float | None, against: str | None, note: str) -> Figure:
    return Figure(name=name, value=value, unit=unit, ratio=ratio, against=against, note=note)
