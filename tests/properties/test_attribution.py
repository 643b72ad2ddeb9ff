"""What attribution hands over is what rating took, whatever the prices; and every usage event is under one reason, once."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from metering.control_points import ATTRIBUTED, RATED, ControlPoint
from metering.periods import parse_period
from metering.usage import Snapshot, load_events
from rating.attribution import attribution_points
from rating.close import Close
from rating.rate import rate
from rating.terms import billing_spans
from tests import oracle
from tests.oracle_events import standing
from tests.properties.dialect_worlds import dialect_worlds
from tests.properties.proof import holds
from tests.properties.strategies import World, world_of, worlds
from tests.properties.wide_worlds import wide_worlds
from tests.rated import AFTER_ALL, engine, events_table, terms_of


def points_of(world: World) -> list[ControlPoint]:
    """Return what a close of the world's month writes down before there are invoices."""
    terms, wall = terms_of(world.catalog), parse_period(world.month)
    start, end = Close.bounds(wall)
    close = Close("close", start, end, 1, 1, AFTER_ALL, True, "period", Snapshot.of({}), 1, False)
    load_events(engine(), events_table(world.events))
    rate(engine(), terms, billing_spans(terms, wall), AFTER_ALL)
    return attribution_points(engine(), close, terms, None)


def figures(points: list[ControlPoint], point: str, reason: str) -> dict[tuple[str, ...], tuple[int, Decimal | None]]:
    return {
        (one.account_id, one.tenant_id, one.meter, one.currency): (one.event_count, one.quantity)
        for one in points
        if (one.point, one.reason) == (point, reason) and one.event_count
    }


@holds(5, world=st.one_of(worlds(), wide_worlds(), dialect_worlds()))
def TestRatingTakesWhatItIsHanded(world: World) -> None:
    points = points_of(world)
    assert figures(points, ATTRIBUTED, "priced") == figures(points, RATED, "rated")


def test_a_plan_whose_only_price_is_converted_is_rated_all_the_same() -> None:
    """The engine once compared its total with 0 as if nothing had been used (tests/metering/test_engine.py)."""
    world = world_of(1, 1, 1, 4)
    price = {"id": "calls", "type": "unit", "meter": "sum", "unit_price": "2", "convert": {"divide": "10"}}
    weekly = {"every": "week", "anchor": "2026-01-31"}
    plan = {"name": "p0", "version": 1, "currency": "USD", "billing_period": weekly, "prices": [price]}
    subscription = {"id": "s0", "tenant": "t0", "plan": "p0", "version": 1, "from": "2026-01-01"}
    catalog = {**world.catalog, "plans": [plan], "subscriptions": [subscription]}
    event = {**world.events[0], "tenant_id": "t0", "meter": "sum", "quantity": "5", "correction": None}
    used = {**event, "event_time": datetime(2026, 3, 7, tzinfo=UTC), "idempotency_key": None}
    points = points_of(World(catalog, [used], "2026-03"))
    rated = [one for one in points if one.point == RATED]
    assert [(one.event_count, one.quantity, one.amount) for one in rated] == [(1, 0, 1)]
    assert figures(points, ATTRIBUTED, "priced") == figures(points, RATED, "rated")


@holds(3, world=wide_worlds())
def TestEveryEventIsUnderOneReason(world: World) -> None:
    month = parse_period(world.month)
    start, end = (edge.replace(tzinfo=UTC) for edge in (month.start, month.end))
    counted, quantities = Counter[tuple[str, str]](), dict[tuple[str, str], list[Decimal]]()
    for event in standing(oracle.dedupe(world.events)):
        if start <= moment(event) < end:
            key = event["tenant_id"], event["meter"]
            counted[key] += 1
            quantities.setdefault(key, []).append(Decimal(event["quantity"]))
    points = [one for one in points_of(world) if one.point == ATTRIBUTED and one.reason != "priced"]
    told = {
        key: (
            sum(one.event_count for one in points if (one.tenant_id, one.meter) == key),
            oracle.add(*(one.quantity or Decimal(0) for one in points if (one.tenant_id, one.meter) == key)),
        )
        for key in {(one.tenant_id, one.meter) for one in points}
    }
    assert told == {key: (counted[key], oracle.add(*quantities[key])) for key in counted}
    known = {
        *(tenant for account in world.catalog["accounts"] for tenant in account["tenants"]),
        *(subscription["tenant"] for subscription in world.catalog["subscriptions"]),
    }
    strangers = {one.tenant_id for one in points if one.reason == "unknown_tenant"}
    assert strangers == {tenant for tenant, _ in counted if tenant not in known}


def moment(event: dict[str, Any]) -> datetime:
    when: datetime = event["event_time"]
    return when
