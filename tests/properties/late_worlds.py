"""Worlds in which use is told late, in periods that are rated and in those before: levels that live on, tiers that go on.

A late world is a month of tenants with one or two subscriptions each, to plans of which most say how late is too late. Events
are of the four months before its end, and recorded up to three months after they happened.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from hypothesis import strategies as st

from tests.properties.strategies import MICROSECOND, World, seeds

Row = dict[str, Any]
MONTH = "2026-03"
BEGIN = datetime(2025, 12, 1, tzinfo=UTC)
METERS: list[Row] = [
    {"name": "used"},
    {"name": "held", "aggregation": "sum", "carry": "recurring"},
    {"name": "level", "aggregation": "last", "carry": "recurring"},
    {"name": "mean", "aggregation": "time_weighted_sum", "carry": "recurring"},
]
TIERS = [{"up_to": "10", "unit_price": "1"}, {"up_to": "30", "unit_price": "0.5"}, {"unit_price": "0.25"}]
DELAYS = (timedelta(0), timedelta(0), timedelta(hours=30), timedelta(days=6), timedelta(days=35), timedelta(days=90))


def _price(chance: Random, price_id: str, *, goes_on: bool) -> Row:
    meter = "used" if goes_on else chance.choice(METERS)["name"]
    if meter == "used" and (goes_on or chance.random() < 0.7):
        return {"id": price_id, "meter": meter, "type": "graduated", "tiers_since": "plan_start", "tiers": TIERS}
    return {"id": price_id, "meter": meter, "type": "unit", "unit_price": "0.5"}


def _plan(seed: int, number: int, version: int, prices: int) -> Row:
    chance = Random(f"{seed} late plan {number} {version}")
    again = "-again" if version > 1 else ""
    # Worlds of nothing but tiers that go on.
    goes_on = Random(f"{seed} goes on").random() < 0.3
    made = {
        "name": f"p{number}", "version": version, "currency": "USD",
        "prices": [_price(chance, f"p{number}-{at}{again}", goes_on=goes_on) for at in range(prices)],
        "billing_period": {
            "every": chance.choice(("month", "month", "week", "quarter")), "timezone": chance.choice(("UTC", "Europe/Paris")),
            "anchor": chance.choice(("calendar", "subscription")),
        },
    }  # fmt: skip
    days = chance.choice((None, 0, 0, 1, 5, 40))
    return made if days is None else {**made, "late_usage_days": days}


def _subscription(seed: int, number: int, plans: int, tenants: int) -> Row:
    chance = Random(f"{seed} late subscription {number}")
    made: Row = {
        "id": f"s{number}", "tenant": f"t{chance.randrange(tenants)}", "plan": f"p{chance.randrange(plans)}", "version": 1,
        "from": chance.choice(("2025-11-15", "2026-01-01", "2026-01-20", "2026-03-02")),
    }  # fmt: skip
    if chance.random() < 0.4:
        made["changes"] = [{"from": chance.choice(("2026-03-03", "2026-03-10")), "version": 2}]
    return made


def _event(seed: int, number: int, tenants: int) -> Row:
    chance = Random(f"{seed} late event {number}")
    when = (
        BEGIN + timedelta(days=chance.randint(0, 120)) + chance.choice((timedelta(0), -MICROSECOND, timedelta(hours=9)))
    )
    return {
        "tenant_id": f"t{chance.randrange(tenants)}", "meter": chance.choice(METERS)["name"],
        "quantity": chance.choice(("1", "2", "7", "12.5")), "event_time": when, "recorded_at": when + chance.choice(DELAYS),
        "attributes": {}, "producer_id": "x", "segment": 0, "row": number, "idempotency_key": None,
    }  # fmt: skip


def late_world_of(seed: int, plans: int, prices: int, events: int) -> World:
    tenants = max(plans - 1, 1)
    held = [_subscription(seed, number, plans, tenants) for number in range(plans + 1)]
    catalog = {
        "meters": METERS,
        "plans": [_plan(seed, number, version, prices) for number in range(plans) for version in (1, 2)],
        "accounts": [{"id": "payer", "name": "Payer", "tenants": [f"t{number}" for number in range(tenants)]}],
        "subscriptions": held,
    }
    return World(catalog, [_event(seed, number, tenants) for number in range(events)], MONTH)


def late_worlds() -> st.SearchStrategy[World]:
    return st.builds(late_world_of, seeds(), st.integers(1, 3), st.integers(1, 3), st.integers(0, 30))
