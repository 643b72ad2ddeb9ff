"""Stripe's late reports on meter events: fetched by the id of a thin event, kept, and what they refuse is parked, once."""

from __future__ import annotations

import random
from datetime import timedelta
from decimal import Decimal
from typing import Any

import orjson
import pytest
import stripe
from sqlalchemy import Engine

from billing_adapters.deliver import Deliverer
from billing_adapters.deliveries import Delivery, list_deliveries, retry
from billing_adapters.errors import EventRefused, ReportEarly
from billing_adapters.late_refusals import list_refusals
from billing_adapters.outbox import Outbox
from billing_adapters.stripe_adapter.meter_events import StripeMeterSettings
from billing_adapters.stripe_adapter.webhooks import StripeWebhooks
from billing_adapters.testing.stripe_server import sign
from metering.clock import from_us
from tallybook.books import metadata
from tests.billing_adapters.test_stripe_meters import MeterWorld, total


@pytest.fixture
def world() -> MeterWorld:
    return MeterWorld(StripeMeterSettings())


@pytest.fixture
def engine(books: Engine) -> Engine:
    metadata.create_all(books)
    return books


def receiver(world: MeterWorld, engine: Engine) -> StripeWebhooks:
    return StripeWebhooks(engine, world.fake.client(), secrets=lambda: [world.fake.webhook_secret], clock=world.clock)


def deliver(world: MeterWorld, engine: Engine, *sources: Any) -> None:
    adapter = world.adapter()
    deliverer = Deliverer(engine, adapter, clock=world.clock, wait=lambda s: world.clock.advance(timedelta(seconds=s)))
    deliverer.outbox.enqueue([intent for one in sources for intent in adapter.prepare(one)])
    deliverer.run()


def rows(engine: Engine) -> dict[str, Delivery]:
    with engine.connect() as connection:
        return {row.natural_key.split()[1]: row for row in list_deliveries(connection)}


def states(engine: Engine) -> dict[str, tuple[str, str]]:
    return {name: (row.state, row.reason) for name, row in rows(engine).items()}


def add_meter(world: MeterWorld, name: str) -> None:
    params: Any = {"display_name": name, "event_name": name, "default_aggregation": {"formula": "sum"}}
    world.fake.client().v1.billing.meters.create({**params, "event_time_window": "hour"})


def thin_events(world: MeterWorld) -> list[tuple[bytes, str]]:
    """Take the events that were not sent yet, but for those of customers that were made."""
    return [one for one in world.fake.signed_webhooks() if orjson.loads(one[0])["object"] == "v2.core.event"]


NO_METER = "stripe_meters refused it later: no_meter (refused: no_meter)"


def test_a_report_is_fetched_and_what_it_names_is_parked_once(world: MeterWorld, engine: Engine) -> None:
    deliver(world, engine, total(0, "5", name="unknown"), total(0, "7"))
    (report,) = world.fake.meters.report_errors()
    ((body, signature),) = thin_events(world)
    # It is thin: what was refused is only in what is fetched.
    assert orjson.loads(body).keys() == {"id", "object", "type", "created", "livemode"}
    taken = receiver(world, engine)
    assert [taken.receive(body, signature) for _ in range(3)] == ["taken", "known", "known"]
    assert states(engine) == {"unknown": ("parked", NO_METER), "tokens": ("delivered", "")}
    with engine.connect() as connection:
        (kept,) = list_refusals(connection)
    assert (kept.event_id, kept.kind, kept.code) == (report["id"], "v1.billing.meter.no_meter_found", "no_meter")
    assert (kept.error_count, kept.named) == (1, (rows(engine)["unknown"].delivery_id,))
    assert (kept.subject, kept.end_at) == (None, from_us(world.clock.now_us()))


def test_a_report_names_its_meter_and_counts_more_than_it_names(world: MeterWorld, engine: Engine) -> None:
    meter = next(one for one in world.fake.store.all("billing.meter") if one["event_name"] == "tokens")
    client = world.fake.client()
    for number in range(12):
        payload = {"stripe_customer_id": "cus_gone", "value": "1"}
        client.v1.billing.meter_events.create({"event_name": "tokens", "payload": payload, "identifier": f"x{number}"})
    world.fake.meters.report_errors()
    (event,) = thin_events(world)
    assert orjson.loads(event[0])["related_object"]["id"] == meter["id"]
    # None of them is ours: kept as it was said, and nothing is parked.
    assert receiver(world, engine).receive(*event) == "taken"
    with engine.connect() as connection:
        (kept,) = list_refusals(connection)
    assert (kept.subject, kept.error_count, len(kept.named)) == (meter["id"], 12, 10)
    assert kept.kind == "v1.billing.meter.error_report_triggered"


def test_what_was_refused_is_counted_after_its_cause_is_mended_and_old_reports_park_nothing(
    world: MeterWorld, engine: Engine
) -> None:
    taken = receiver(world, engine)
    deliver(world, engine, total(0, "5", name="late"))
    (first,) = world.fake.meters.report_errors()
    (event,) = thin_events(world)
    taken.receive(*event)
    assert states(engine)["late"] == ("parked", NO_METER)
    add_meter(world, "late")
    identity = rows(engine)["late"].delivery_id
    retry(engine, identity, who="ada", why="the meter exists now", now=from_us(world.clock.now_us()))
    deliver(world, engine)
    # Under its old name Stripe would have said that it has it, and never counted it.
    assert [value for _, value in world.fake.meters.counted["late"].values()] == [Decimal(5)]
    assert states(engine)["late"][0] == "delivered"
    # Another report on the first sending, which comes after all that.
    again = {**first, "id": "evt_other"}
    world.fake.meters.reports["evt_other"] = again
    thin = {name: value for name, value in again.items() if name != "data"}
    assert taken.receive(*sign(thin, world.fake.webhook_secret, world.fake.store.now_s)) == "taken"
    assert states(engine)["late"][0] == "delivered"


def refused_three_days_ago(engine: Engine) -> tuple[MeterWorld, str]:
    """Return a world whose Stripe refused a delivery for want of a meter that is there now, and the delivery."""
    world = MeterWorld(StripeMeterSettings(mode="raw"))
    deliver(world, engine, total(0, "5", name="late"))
    world.fake.meters.report_errors()
    (event,) = thin_events(world)
    receiver(world, engine).receive(*event)
    identity: str = rows(engine)["late"].delivery_id
    add_meter(world, "late")
    world.clock.advance(timedelta(days=3))
    return world, identity


def test_what_was_refused_is_sent_again_days_later_though_names_live_for_a_day(engine: Engine) -> None:
    world, identity = refused_three_days_ago(engine)
    # Nothing was sent under the new name yet, so there is nothing to look for.
    assert not retry(engine, identity, who="ada", why="it exists", now=from_us(world.clock.now_us())).is_uncertain
    deliver(world, engine)
    assert states(engine)["late"] == ("delivered", "")
    assert [value for _, value in world.fake.meters.counted["late"].values()] == [Decimal(5)]


def test_what_may_have_arrived_under_its_new_name_waits_for_a_person(engine: Engine) -> None:
    world, identity = refused_three_days_ago(engine)
    retry(engine, identity, who="ada", why="it exists", now=from_us(world.clock.now_us()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Outbox, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            deliver(world, engine)
    world.clock.advance(timedelta(days=3))
    deliver(world, engine)
    assert rows(engine)["late"].is_uncertain
    assert retry(engine, identity, who="ada", why="again", now=from_us(world.clock.now_us())).is_uncertain
    deliver(world, engine)
    assert states(engine)["late"][0] == "pending"
    assert [value for _, value in world.fake.meters.counted["late"].values()] == [Decimal(5)]


def test_what_is_refused_again_is_parked_again(world: MeterWorld, engine: Engine) -> None:
    taken = receiver(world, engine)
    deliver(world, engine, total(0, "5", name="unknown"))
    events = []
    for number in range(3):
        (report,) = world.fake.meters.report_errors()
        named = report["data"]["reason"]["error_types"][0]["sample_errors"][0]["request"]["identifier"]
        identity = rows(engine)["unknown"].delivery_id
        assert named == (f"{identity}.{number}" if number else identity)
        events += thin_events(world)
        random.Random(number).shuffle(events)
        assert {taken.receive(*event) for event in events} <= {"taken", "known"}
        assert states(engine)["unknown"] == ("parked", NO_METER)
        retry(engine, identity, who="ada", why="hope", now=from_us(world.clock.now_us()))
        deliver(world, engine)
    with engine.connect() as connection:
        assert len(list_refusals(connection)) == 3


def test_a_report_on_what_is_under_way_still_comes_again(world: MeterWorld, engine: Engine) -> None:
    taken = receiver(world, engine)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Outbox, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            deliver(world, engine, total(0, "5", name="unknown"))
    world.fake.meters.report_errors()
    (event,) = thin_events(world)
    assert taken.status_of(*event) == 500
    with pytest.raises(ReportEarly, match="under way still"):
        taken.receive(*event)
    # The next run finds what the first one left, and only then is it known to be delivered; Stripe signs each try anew.
    world.clock.advance(timedelta(minutes=11))
    deliver(world, engine)
    assert states(engine)["unknown"][0] == "delivered"
    assert taken.receive(*sign(orjson.loads(event[0]), world.fake.webhook_secret, world.fake.store.now_s)) == "taken"
    assert states(engine)["unknown"] == ("parked", NO_METER)
    with engine.connect() as connection:
        assert len(list_refusals(connection)) == 1


def killed(*_given: object) -> bool:
    raise KeyboardInterrupt


def test_a_thin_event_is_signed_and_what_cannot_be_fetched_comes_again(world: MeterWorld, engine: Engine) -> None:
    deliver(world, engine, total(0, "5", name="unknown"))
    world.fake.meters.report_errors()
    ((body, signature),) = thin_events(world)
    taken = receiver(world, engine)
    with pytest.raises(EventRefused, match="not signed"):
        taken.receive(body + b" ", signature)
    world.fake.fault = lambda method, _path: "error" if method == "get" else None
    with pytest.raises(stripe.APIError):
        taken.receive(body, signature)
    assert taken.status_of(body, signature) == 500
    assert states(engine)["unknown"][0] == "delivered"
    world.fake.fault = lambda _method, _path: None
    assert taken.receive(body, signature) == "taken"
    other = {"id": "evt_x", "object": "v2.core.event", "type": "v1.billing.meter.updated", "created": ""}
    assert taken.receive(*sign(other, world.fake.webhook_secret, world.fake.store.now_s)) == "ignored"
