"""Billing adjustment requests over boto3 and a faithful fake: the contract, partial batches, states, and a seeded storm."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson
import pytest
from sqlalchemy import Engine

from billing_adapters.adapter import Intent
from billing_adapters.aws_marketplace_adapter.adjustments import Adjustment, AdjustmentAdapter, most_adjustable
from billing_adapters.deliver import Delivered, Deliverer
from billing_adapters.deliveries import Delivery, list_deliveries
from billing_adapters.errors import AdapterMisconfigured, ProviderAway, QuestionRefused
from billing_adapters.outcomes import Policy
from billing_adapters.testing.aws_marketplace_server import MarketplaceFake
from billing_adapters.testing.contract import AdapterContract, Crashed
from metering.clock import FixedClock

NOW = datetime(2026, 12, 5, 12, tzinfo=UTC)
FAILURES = ("lost", "away", "error", "error_after", "throttled")


def adjustment(number: int, amount: str = "12.5", *, invoice: str = "inv-1", **more: Any) -> Adjustment:
    one = Adjustment(
        f"adj-{number}", "acme-inc", "agmt-1", invoice, Decimal(amount), "USD", description="counted twice"
    )
    return replace(one, **more)


class AdjustmentWorld:
    """An agreement with two invoices; AWS validates a request twenty minutes after it was made."""

    def __init__(self) -> None:
        self.clock = FixedClock(NOW)
        self.fake = MarketplaceFake(self.clock)
        self.fake.agreements.add("agmt-1", starts_at=NOW - timedelta(days=90))
        self.fake.agreements.settles_after = timedelta(minutes=20)
        for name in ("inv-1", "inv-2"):
            self.fake.agreements.invoice("agmt-1", name, "100.00")
        self.client = self.fake.client("marketplace-agreement")

    def adapter(self) -> AdjustmentAdapter:
        return AdjustmentAdapter(self.client, look_again_s=900)

    def sources(self) -> Sequence[object]:
        # Two of the same amount and invoice: only our key tells them apart.
        return [adjustment(1), adjustment(2), adjustment(3, "0.00000001", invoice="inv-2")]

    def fail(self, how: str, times: int = 1) -> None:
        self.fake.fail(how, times)

    def holdings(self) -> dict[str, list[str]]:
        held: dict[str, list[str]] = {}
        keys = {token: identity for token, (_, identity) in self.fake.agreements.by_token.items()}
        of_delivery = {identity: token for token, identity in keys.items()}
        for identity, one in self.fake.agreements.requests.items():
            held.setdefault(self.key_of(of_delivery[identity]), []).append(one["adjustmentAmount"])
        return held

    def key_of(self, delivery_id: str) -> str:
        intents = [intent for source in self.sources() for intent in self.adapter().prepare(source)]
        return next(one.natural_key for one in intents if one.delivery_id("aws_adjustments") == delivery_id)

    def expected(self, intent: Intent) -> str:
        return str(orjson.loads(intent.payload)["adjustmentAmount"])


class TestAdjustments(AdapterContract):
    def make_world(self) -> AdjustmentWorld:
        return AdjustmentWorld()


@pytest.fixture
def engine() -> Engine:
    return AdapterContract().open_books()


def deliver(world: AdjustmentWorld, engine: Engine, *sources: Adjustment, passes: int = 1, **more: Any) -> Delivered:
    deliverer = Deliverer(
        engine,
        world.adapter(),
        clock=world.clock,
        chance=lambda: 0.5,
        wait=lambda seconds: world.clock.advance(timedelta(seconds=seconds)),
        **more,
    )
    deliverer.outbox.enqueue([intent for one in sources for intent in world.adapter().prepare(one)])
    for _ in range(passes):
        done = deliverer.run()
        world.clock.advance(timedelta(minutes=16))
    return done


def rows(engine: Engine) -> dict[str, Delivery]:
    with engine.connect() as connection:
        return {row.natural_key.rpartition(" ")[2]: row for row in list_deliveries(connection)}


def test_a_request_is_delivered_when_aws_completed_it(engine: Engine) -> None:
    world = AdjustmentWorld()
    deliver(world, engine, adjustment(1))
    row = rows(engine)["adj-1"]
    assert (row.state, row.outcome, row.amount) == ("pending", "UNKNOWN", Decimal("-12.5"))
    deliver(world, engine, passes=3)
    row = rows(engine)["adj-1"]
    (request,) = world.fake.agreements.requests.values()
    assert (row.state, row.provider_id) == ("delivered", request["billingAdjustmentRequestId"])
    assert request["description"] == f"counted twice [{row.delivery_id}]"


def test_a_batch_is_taken_in_part(engine: Engine) -> None:
    world = AdjustmentWorld()
    sources = [
        adjustment(1),
        adjustment(2, "100.01"),
        adjustment(3, invoice="inv-9"),
        adjustment(4, "60", invoice="inv-2"),
    ]
    # What is left of an invoice is known to AWS alone, and when it validates.
    deliver(world, engine, *sources, adjustment(5, "60", invoice="inv-2"), passes=6)
    found = {name: (row.state, row.outcome) for name, row in rows(engine).items()}
    done, refused = ("delivered", "ALREADY_ACCEPTED_SAME"), ("parked", "REJECTED_PERMANENT")
    assert (found["adj-1"], found["adj-2"], found["adj-3"]) == (done, refused, refused)
    assert sorted([found["adj-4"], found["adj-5"]]) == [done, refused]
    assert any("VALIDATION_FAILED: 40 is left" in row.reason for row in rows(engine).values())
    assert len([call for call in world.fake.calls if "billingAdjustmentRequestEntries" in call]) == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"amount": Decimal(0)}, "above zero"),
        ({"amount": Decimal(-5)}, "above zero"),
        ({"amount": Decimal("0.000000001")}, "up to 8 decimals"),
        ({"reason": "BAD_LUCK"}, "no reason of AWS's"),
        ({"agreement_id": "agmt 1"}, "no agreement and invoice"),
        ({"currency": "usd"}, "no currency"),
        ({"description": "x" * 441}, "up to 440 characters"),
    ],
)
def test_what_aws_would_refuse_is_parked_before_it_is_sent(engine: Engine, change: dict[str, Any], why: str) -> None:
    world = AdjustmentWorld()
    deliver(
        world,
        engine,
        adjustment(1, **{"amount": "1", **change}) if "amount" not in change else replace(adjustment(1), **change),
    )
    assert rows(engine)["adj-1"].state == "parked"
    assert why in rows(engine)["adj-1"].reason
    assert world.fake.calls == []


def test_a_list_that_lags_behind_costs_no_second_request(engine: Engine) -> None:
    world = AdjustmentWorld()
    world.fake.agreements.shows_requests = False
    world.fake.fail("lost")
    deliver(world, engine, adjustment(1), passes=5)
    assert len(world.fake.agreements.requests) == 1
    assert rows(engine)["adj-1"].state == "delivered"


def test_no_right_to_agreements_stops_the_adapter(engine: Engine) -> None:
    world = AdjustmentWorld()
    world.fake.is_disabled = True
    with pytest.raises(AdapterMisconfigured):
        deliver(world, engine, adjustment(1))
    assert rows(engine)["adj-1"].state == "pending"


def test_how_much_can_be_adjusted_is_asked() -> None:
    world = AdjustmentWorld()
    assert most_adjustable(world.client, "agmt-1", "inv-1") == (Decimal(100), "USD")
    for agreement, invoice in (("agmt-1", "inv-9"), ("agmt-9", "inv-1")):
        with pytest.raises(QuestionRefused):
            most_adjustable(world.client, agreement, invoice)
    world.fake.fail("throttled")
    with pytest.raises(ProviderAway):
        most_adjustable(world.client, "agmt-1", "inv-1")


@pytest.mark.parametrize(
    "change",
    [{"adjustmentAmount": "1.123456789"}, {"adjustmentReasonCode": "LUCK"}, {"clientToken": "a_b"}, {"colour": "red"}],
)
def test_the_fake_refuses_what_aws_refuses(change: dict[str, str]) -> None:
    import botocore.exceptions

    world = AdjustmentWorld()
    entry = {"agreementId": "agmt-1", "originalInvoiceId": "inv-1", "adjustmentAmount": "1", "currencyCode": "USD",
             "adjustmentReasonCode": "OTHER", "clientToken": "t", **change}  # fmt: skip
    with pytest.raises((botocore.exceptions.ClientError, botocore.exceptions.ParamValidationError)):
        world.client.batch_create_billing_adjustment_request(billingAdjustmentRequestEntries=[entry])
    assert world.fake.agreements.requests == {}


def storm(seed: int) -> int:
    """Ask for adjustments while calls are lost, deliverers die and two work at once; return how often something went wrong."""
    chance = random.Random(seed)
    world, engine = AdjustmentWorld(), AdapterContract().open_books()
    calm, wrong = False, 0
    failing, dying = chance.choice((0.1, 0.3, 0.6)), chance.choice((0.0, 0.03))

    def fault() -> str | None:
        nonlocal wrong
        how = chance.choice(FAILURES) if not calm and chance.random() < failing else None
        wrong += how is not None
        return how

    world.fake.fault = fault
    sources = [adjustment(n, f"{chance.randint(1, 900)}.{chance.randint(0, 9)}".strip("0") or "1", invoice="big")
               for n in range(1, chance.randint(2, 5))]  # fmt: skip
    world.fake.agreements.invoice("agmt-1", "big", "100000")

    def run(depth: int = 0) -> None:
        def step(where: str) -> None:
            nonlocal wrong
            if not calm and chance.random() < dying:
                wrong += 1
                raise Crashed(where)
            if not calm and depth == 0 and chance.random() < dying:
                world.clock.advance(timedelta(minutes=chance.choice((1, 11, 200))))
                run(1)

        # A provider that fails five times in a row stops a run; the next one goes on.
        with suppress(Crashed, AdapterMisconfigured):
            deliver(world, engine, *sources, policy=Policy(attempts_max=10_000), on_step=step)

    for _ in range(8):
        run()
        world.clock.advance(chance.choice((timedelta(seconds=5), timedelta(minutes=11), timedelta(hours=30))))
    calm = True
    for _ in range(60):
        run()
        if {row.state for row in rows(engine).values()} == {"delivered"}:
            break
        world.clock.advance(timedelta(hours=1))
    assert {row.state for row in rows(engine).values()} == {"delivered"}, f"seed {seed}"
    there = sorted(Decimal(one["adjustmentAmount"]) for one in world.fake.agreements.requests.values())
    assert there == sorted(one.amount for one in sources), f"seed {seed}"
    assert {one["status"] for one in world.fake.agreements.requests.values()} == {"COMPLETED"}
    return wrong


def test_in_a_storm_each_is_asked_for_exactly_once() -> None:
    assert sum(storm(seed) for seed in range(6)) > 20


@pytest.mark.prove
@pytest.mark.timeout(3000)
def test_in_hundreds_of_storms_each_is_asked_for_exactly_once() -> None:
    assert sum(storm(seed) for seed in range(100, 500)) > 1000
