"""MeterUsage over boto3 and a faithful fake: the contract in both ways of telling calls apart, windows, instances, fractions."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import botocore.exceptions
import pytest
from sqlalchemy import Engine

from billing_adapters.aws_marketplace_adapter import MeterUsageSettings, make_meter_usage
from billing_adapters.deliver import Delivered, Deliverer
from billing_adapters.deliveries import Delivery, list_deliveries
from billing_adapters.errors import AdapterMisconfigured
from billing_adapters.outbox import Outbox
from billing_adapters.outcomes import Policy
from billing_adapters.testing.aws_marketplace_server import serve
from billing_adapters.testing.contract import AdapterContract, Crashed
from billing_adapters.usage_totals import UsageTotal
from metering.clock import from_us
from tests.billing_adapters.marketplace_hours import HOUR, NOON, REGION, MeteredHour, WorkloadWorld, metered


class TestMeterUsageOfInstances(AdapterContract):
    def make_world(self) -> WorkloadWorld:
        return WorkloadWorld()


class TestMeterUsageByToken(AdapterContract):
    def make_world(self) -> WorkloadWorld:
        return WorkloadWorld(is_summed=True)


@pytest.fixture
def engine() -> Engine:
    return AdapterContract().open_books()


def deliver(world: WorkloadWorld, engine: Engine, *sources: object, passes: int = 1, adapter: Any = None) -> Delivered:
    adapter = adapter or world.adapter()
    deliverer = Deliverer(
        engine,
        adapter,
        clock=world.clock,
        chance=lambda: 0.5,
        wait=lambda seconds: world.clock.advance(timedelta(seconds=seconds)),
    )
    deliverer.outbox.enqueue([intent for one in sources for intent in adapter.prepare(one)])
    for _ in range(passes):
        done = deliverer.run()
        world.clock.advance(timedelta(minutes=1))
    return done


def rows(engine: Engine) -> list[Delivery]:
    with engine.connect() as connection:
        return list_deliveries(connection)


def test_a_record_is_the_hour_and_its_token_is_ours(engine: Engine) -> None:
    world = WorkloadWorld()
    deliver(world, engine, metered("12.500000000", shares=(({"team": "a"}, Decimal(2)), ({}, Decimal(1)))))
    (call,) = world.fake.calls
    (row,) = rows(engine)
    assert call == {
        "ProductCode": "code-1",
        "UsageDimension": "tokens",
        "Timestamp": (NOON - HOUR).timestamp(),
        "UsageQuantityAsDecimal": "12.5",
        "UsageAllocations": [
            {"AllocatedUsageQuantityAsDecimal": "8.333333", "Tags": [{"Key": "team", "Value": "a"}]},
            {"AllocatedUsageQuantityAsDecimal": "4.166667"},
        ],
        "ClientToken": row.delivery_id,
    }
    assert (row.state, row.provider_id) == ("delivered", "usage-00000001")


def test_whole_numbers_where_a_dimension_takes_no_others(engine: Engine) -> None:
    world = WorkloadWorld()
    deliver(world, engine, metered("12.9"), adapter=world.adapter(decimals_of={"tokens": 0}))
    assert [call["UsageQuantity"] for call in world.fake.calls] == [12]


def test_another_quantity_of_an_hour_is_a_conflict_and_nothing_is_summed(engine: Engine) -> None:
    world = WorkloadWorld()
    deliver(world, AdapterContract().open_books(), metered("5"))
    # Other books, the same instance: another delivery would have the same key, so a resend is told by its own token.
    deliver(world, engine, metered("6"))
    (row,) = rows(engine)
    assert (row.state, row.outcome, row.money) == ("parked", "CONFLICT_OTHER_VALUE", "AT_RISK")
    assert list(world.fake.workloads.metered.values()) == [Decimal(5)]


def test_what_one_instance_may_have_told_is_not_told_by_another(engine: Engine) -> None:
    """AWS would bill both; what the first one did not begin is told by the second."""
    first = WorkloadWorld()
    first.fake.fail("lost")
    deliver(first, engine, metered("5"))
    second = first.adapter(instance="i-2")
    second = replace(second, client=first.fake.client(key_id="i-2"))
    Outbox(engine, second.capabilities, first.clock).enqueue(first.adapter().prepare(metered("7", ago=2)))
    deliver(first, engine, passes=3, adapter=second)
    found = {row.quantity: (row.state, row.outcome) for row in rows(engine)}
    assert found == {Decimal(5): ("parked", "REJECTED_PERMANENT"), Decimal(7): ("delivered", "ACCEPTED")}
    assert sorted(first.fake.workloads.metered.values()) == [Decimal(5), Decimal(7)]
    (parked,) = [row for row in rows(engine) if row.state == "parked"]
    assert "look for it in the seller's report" in parked.reason


def test_an_agent_s_token_is_the_same_from_anywhere(engine: Engine) -> None:
    world = WorkloadWorld(is_summed=True)
    world.fake.fail("lost")
    deliver(world, engine, metered("5"))
    world.instance = "i-2"
    deliver(world, engine, passes=3)
    assert [quantity for *_, quantity in world.fake.workloads.summed] == [Decimal(5)]
    assert [row.state for row in rows(engine)] == ["delivered"]


def test_six_hours_and_no_more(engine: Engine) -> None:
    world = WorkloadWorld()
    (intent,) = world.adapter().prepare(metered("5", ago=6))
    assert intent.recover_by == NOON
    deliver(world, engine, metered("5", ago=6), metered("7", ago=5))
    assert sorted((row.state, row.outcome) for row in rows(engine)) == [
        ("delivered", "ACCEPTED"),
        ("parked", "EXPIRED"),
    ]


def test_a_buyer_who_is_not_entitled_is_waited_for_until_the_window_ends(engine: Engine) -> None:
    world = WorkloadWorld()
    world.fake.workloads.add("i-1", product_code="code-1", is_entitled=False)
    deliver(world, engine, metered("5"))
    assert [(row.state, row.outcome) for row in rows(engine)] == [("pending", "NOT_ENTITLED")]
    for _ in range(6):
        world.clock.advance(HOUR)
        deliver(world, engine)
    assert [(row.state, row.outcome, row.money) for row in rows(engine)] == [("parked", "EXPIRED", "LOST")]


@pytest.mark.parametrize(
    ("change", "outcome"),
    [({"product_code": "other"}, "REJECTED_PERMANENT"), ({"dimensions": frozenset({"bytes"})}, "REJECTED_PERMANENT")],
)
def test_what_aws_can_never_take_is_parked(engine: Engine, change: dict[str, Any], outcome: str) -> None:
    world = WorkloadWorld()
    world.fake.workloads.add("i-1", **{"product_code": "code-1", **change})
    deliver(world, engine, metered("5"))
    assert [(row.state, row.outcome) for row in rows(engine)] == [("parked", outcome)]


def test_another_region_than_the_workload_s_stops_delivery(engine: Engine) -> None:
    world = WorkloadWorld()
    adapter = replace(world.adapter(), client=world.fake.client(key_id="i-1", region="eu-west-1"))
    with pytest.raises(AdapterMisconfigured, match="InvalidEndpointRegionException"):
        deliver(world, engine, metered("5"), adapter=adapter)
    assert [row.state for row in rows(engine)] == ["pending"]


def test_settings_that_say_nothing_are_refused() -> None:
    for wrong, why in (
        ({}, "name the instance"),
        ({"instance": "i", "dedupes_by": "luck"}, "hour or client_token"),
        ({"instance": "i", "decimals": 7}, "up to 6 decimals"),
    ):
        with pytest.raises(ValueError, match=why):
            MeterUsageSettings(REGION, "code-1", **wrong)  # type: ignore[arg-type]


def test_over_http_with_boto3_as_it_is(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "i-1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "fake")
    monkeypatch.setenv("TALLYBOOK_INSTANCE", "i-1")
    world = WorkloadWorld()
    with serve(world.fake) as url:
        adapter = make_meter_usage({"region": REGION, "product_code": "code-1", "address": url})
        for how in ("lost", "throttled", "error", "error_after", "away"):
            world.fake.fail(how)
        hours = [metered(f"{number}.25", ago=1, dimension=f"d{number}") for number in range(1, 11)]
        deliver(world, engine, *hours, passes=8, adapter=adapter)
    assert {row.state for row in rows(engine)} == {"delivered"}
    assert sum(world.fake.workloads.metered.values()) == sum(Decimal(n) + Decimal("0.25") for n in range(1, 11))


def test_the_fake_answers_a_dry_run_by_its_rights() -> None:
    world = WorkloadWorld()
    asked = {"ProductCode": "code-1", "Timestamp": NOON, "UsageDimension": "tokens", "DryRun": True}
    for key_id, kind in (("i-1", "DryRunOperation"), ("stranger", "UnauthorizedException")):
        with pytest.raises(botocore.exceptions.ClientError, match=kind):
            world.fake.client(key_id=key_id).meter_usage(**asked)
    assert world.fake.workloads.metered == {}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"UsageQuantityAsDecimal": "1.1234567"}, "ValidationException"),
        ({"UsageQuantityAsDecimal": "1", "UsageQuantity": 1}, "ValidationException"),
        ({"ClientToken": "x" * 65}, "ValidationException"),
        ({"Timestamp": NOON + HOUR}, "TimestampOutOfBoundsException"),
        ({"Timestamp": NOON - 6 * HOUR}, "TimestampOutOfBoundsException"),
        ({"ClientToken": "taken", "UsageQuantityAsDecimal": "9"}, "IdempotencyConflictException"),
        ({"UsageAllocations": [{"AllocatedUsageQuantityAsDecimal": "2"}]}, "InvalidUsageAllocationsException"),
    ],
)
def test_the_fake_refuses_what_aws_refuses(change: dict[str, Any], kind: str) -> None:
    world = WorkloadWorld(is_summed=True)
    client = world.fake.client(key_id="i-1")
    record = {"ProductCode": "code-1", "Timestamp": NOON - HOUR, "UsageDimension": "tokens"}
    client.meter_usage(**record, UsageQuantityAsDecimal="1", ClientToken="taken")
    with pytest.raises(client.exceptions.ClientError, match=kind):
        client.meter_usage(**{**record, "UsageQuantityAsDecimal": "1", **change})
    assert len(world.fake.workloads.summed) == 1


# --- days of fractions --------------------------------------------------------------------------------------------------


def some_days(begin: datetime, days: int, seed: int, *, is_summed: bool) -> None:
    """Tell AWS every hour of some days of fractional use, with outages, lost answers, deaths and two deliverers at once.

    What AWS counted plus what is carried is the ledger, exactly; each hour is there once; nothing expired.
    """
    chance = random.Random(seed)
    world, engine = WorkloadWorld(is_summed=is_summed, now=begin), AdapterContract().open_books()
    clock, storm = world.clock, {"until": begin, "how": "away"}
    world.fake.fault = lambda: (
        storm["how"]
        if from_us(clock.now_us()) < storm["until"]
        else chance.choice(["lost", "error_after", *[None] * 4])  # type: ignore[operator,return-value]
    )
    decimals = {"tokens": 6, "calls": 0}
    outbox = Outbox(engine, world.adapter().capabilities, clock)
    ledger = dict.fromkeys(decimals, Decimal(0))

    def run(*, may_die: bool, depth: int = 0) -> None:
        def step(where: str) -> None:
            if may_die and chance.random() < 0.01:
                raise Crashed(where)
            if may_die and depth == 0 and chance.random() < 0.02:
                clock.advance(timedelta(minutes=chance.choice((1, 11))))
                run(may_die=True, depth=1)

        with suppress(Crashed):
            Deliverer(
                engine, world.adapter(), clock=clock, chance=lambda: 0.5, policy=Policy(cap_s=600.0), on_step=step,
                wait=lambda seconds: clock.advance(timedelta(seconds=seconds)),
            ).run()  # fmt: skip

    for at in range(days * 24):
        start = begin + at * HOUR
        clock.advance(max(start + HOUR - from_us(clock.now_us()), timedelta(0)))
        if chance.random() < 0.1 and from_us(clock.now_us()) - storm["until"] > 6 * HOUR:  # type: ignore[operator]
            # Shorter than the hours that AWS takes back.
            storm.update(until=from_us(clock.now_us()) + timedelta(minutes=chance.randint(20, 150)),
                         how=chance.choice(["away", "error_after"]))  # fmt: skip
        sent = outbox.sent([f"buyer {name}" for name in decimals])
        for name, places in decimals.items():
            ledger[name] += Decimal(chance.randint(-40_000, 10**9)).scaleb(-9)
            total = UsageTotal("buyer", "buyer", name, start, start + HOUR, ledger[name], sent=sent[f"buyer {name}"])
            outbox.enqueue(world.adapter(decimals_of={name: places}).prepare(MeteredHour(total)))
        for _ in range(3):
            run(may_die=True)
            clock.advance(timedelta(minutes=12))
    for _ in range(20):
        clock.advance(timedelta(minutes=15))
        run(may_die=False)
    found = rows(engine)
    assert {row.state for row in found} == {"delivered"}, [row.reason for row in found if row.state != "delivered"]
    counted = [(key[1], one) for key, one in world.fake.workloads.metered.items()]
    counted += [(name, one) for _, name, _, one in world.fake.workloads.summed]
    assert len(counted) == len(found)
    for name, places in decimals.items():
        carried = ledger[name] - sum((one for dimension, one in counted if dimension == name), Decimal(0))
        assert 0 <= carried < Decimal(1).scaleb(-places)


@pytest.mark.parametrize("is_summed", [False, True])
def test_a_day_of_fractions_adds_up_over_the_end_of_a_month(is_summed: bool) -> None:
    some_days(datetime(2026, 8, 31, 12, tzinfo=UTC), 1, seed=1, is_summed=is_summed)


@pytest.mark.prove
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("is_summed", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_a_quarter_of_fractions_adds_up(seed: int, is_summed: bool) -> None:
    some_days(datetime(2026, 8, 20, tzinfo=UTC), 92, seed=200 + seed, is_summed=is_summed)
