"""What delivery costs beside the calls themselves: invoices through the outbox to the fake Stripe, and the same calls bare.

Enters: nothing. Leaves: processor time and calls per invoice, as ratios to the same three calls by the SDK alone (create, add
lines, finalize) in the same run; what a tenth of them costs, because no part may grow faster than the invoices do; and claims
with few and with many deliveries waiting, because a queue must not grow slow. The fake works in the same process: its time is
in both, and its objects are in the memory, until it is dropped and what stays is ours.
"""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import stripe
from sqlalchemy import Engine, func, select

from benchmarks.figures import Figure
from billing_adapters.adapter import Document
from billing_adapters.books import delivery_attempts
from billing_adapters.deliver import Deliverer
from billing_adapters.outbox import Outbox
from billing_adapters.stripe_adapter import StripeAdapter, StripeSettings
from billing_adapters.testing.stripe_fake import StripeFake
from metering.clock import FixedClock
from tallybook.books import migrate, open_books
from tests.billing_adapters.invoices import invoice

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
LINES = ["10.00"] * 10
TOTAL_CENTS = 10_000
INVOICES_PER_ACCOUNT = 25
CALLS_PER_S = 100
SIZE, SIZE_QUICK = 100_000, 1_000
BARE_MAX = 5_000


@dataclass(frozen=True)
class _Run:
    """One delivery of all invoices. Seconds are of processor time, per invoice; memory is of the whole process, in MiB."""

    enqueued_s: float
    delivered_s: float
    calls: float
    pace: float
    refused: int
    left_mib: float


def run(quick: bool, size: int | None = None) -> list[Figure]:
    """Return the figures of this benchmark. `quick`: few invoices, a smoke test. `size`: how many invoices."""
    stripe.enable_telemetry = False
    invoices = size or (SIZE_QUICK if quick else SIZE)
    bare_s = _bare(min(invoices, BARE_MAX))
    few = _delivered(max(invoices // 10, 1))
    many = _delivered(invoices)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    accounts = _accounts(invoices)
    return [
        _figure("the three calls bare, per invoice of 10 lines", bare_s * 1000, "ms", note="processor time, SDK and fake"),
        _figure("delivered, per invoice", many.delivered_s * 1000, "ms", many.delivered_s / bare_s, "bare",
                f"{invoices:,} invoices of {accounts:,} new customers"),
        _figure("delivered, per invoice of a tenth", few.delivered_s * 1000, "ms", few.delivered_s / many.delivered_s,
                "all of them", "as much, or some part grows faster than the invoices"),
        _figure("enqueued, per invoice", many.enqueued_s * 1000, "ms", many.enqueued_s / bare_s, "bare",
                "prepared and written down"),
        _figure("delivered in all", many.delivered_s * invoices / 60, "min", note="processor time, in two runs"),
        _figure("calls per invoice", many.calls, "calls", note="customers included"),
        _figure("calls per second of the provider's clock", many.pace, "calls/s",
                note=f"declared: {CALLS_PER_S}; refused as too fast: {many.refused}"),
        _figure("memory at the most", peak, "MiB", note="the whole process, with all that the fake holds"),
        _figure("memory without the fake", many.left_mib, "MiB",
                note=f"what stays when it is dropped; after a tenth: {few.left_mib:.0f}"),
        *_claims(min(invoices, 100_000)),
    ]  # fmt: skip


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


def _delivered(invoices: int) -> _Run:
    """Deliver invoices from empty books to an empty fake, in two runs, as if the first had been stopped half-way."""
    clock = FixedClock(NOW)
    fake = StripeFake(clock, writes_per_s=CALLS_PER_S)
    adapter = StripeAdapter(fake.client(), StripeSettings())
    with _books() as engine:
        deliverer = Deliverer(
            engine, adapter, clock=clock, wait=lambda s: clock.advance(timedelta(seconds=s)), calls_per_s=CALLS_PER_S
        )
        began = time.process_time()
        _enqueue(deliverer.outbox, adapter, 0, invoices)
        enqueued_s = (time.process_time() - began) / invoices
        began, provider_began = time.process_time(), clock.now_us()
        told = _progress(invoices)
        first = deliverer.run(limit=invoices // 2, on_item=told)
        second = deliverer.run(on_item=told)
        delivered_s = (time.process_time() - began) / invoices
        with engine.connect() as connection:
            query = select(func.count()).select_from(delivery_attempts).where(delivery_attempts.c.code == "rate_limit")
            refused = connection.execute(query).scalar_one()
    states = first.states + second.states
    held = fake.store.all("invoice")
    if states["delivered"] != invoices or len(held) != invoices or {one["total"] for one in held} != {TOTAL_CENTS}:
        raise RuntimeError(f"{states} of {invoices} were delivered")
    calls, taken_s = len(fake.calls), (clock.now_us() - provider_began) / 1_000_000
    del fake, adapter, deliverer, held
    return _Run(enqueued_s, delivered_s, calls / invoices, calls / taken_s, refused, _resident_mib())


def _claims(waiting: int) -> list[Figure]:
    """Measure claiming and giving back twenty, with few and with many others waiting."""
    clock = FixedClock(NOW)
    adapter = StripeAdapter(StripeFake(clock).client(), StripeSettings())
    with _books() as engine:
        outbox = Outbox(engine, adapter.capabilities, clock)
        _enqueue(outbox, adapter, 0, 100)
        few_s = _claim_s(outbox)
        _enqueue(outbox, adapter, 100, waiting)
        many_s = _claim_s(outbox)
    return [
        _figure("claim of 20, 100 waiting", few_s * 1000, "ms", note="processor time"),
        _figure(
            f"claim of 20, {waiting:,} waiting", many_s * 1000, "ms", many_s / few_s, "100 waiting", "processor time"
        ),
    ]


@contextmanager
def _books() -> Iterator[Engine]:
    """Give empty books in a folder of their own."""
    with tempfile.TemporaryDirectory() as folder:
        engine = open_books(f"sqlite:///{folder}/books.sqlite")
        migrate(engine)
        yield engine
        engine.dispose()


def _progress(invoices: int) -> Callable[[int], None]:
    """Return what tells a person, every thousand, how far a long delivery is."""
    done = 0

    def tell(items: int) -> None:
        nonlocal done
        done += items
        if done % 1_000 == 0 and sys.stderr.isatty():
            print(f"\r  {done:,} of {invoices:,}", end="\n" if done == invoices else "", file=sys.stderr, flush=True)

    return tell


def _resident_mib() -> float:
    """Return the memory that this process has now, after giving back what it does not use."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def _accounts(invoices: int) -> int:
    return max(1, invoices // INVOICES_PER_ACCOUNT)


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
    accounts = _accounts(number)
    for at in range(0, number, 500):
        documents = [
            Document(invoice(first + n, *LINES, account=f"account-{n % accounts}"), f"Account {n % accounts}")
            for n in range(at, min(number, at + 500))
        ]
        outbox.enqueue([intent for one in documents for intent in adapter.prepare(one)])


def _figure(
    name: str, value: float, unit: str, ratio: float | None = None, against: str | None = None, note: str = ""
) -> Figure:
    return Figure(name=name, value=value, unit=unit, ratio=ratio, against=against, note=note)
