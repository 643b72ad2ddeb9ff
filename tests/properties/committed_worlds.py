"""Worlds of commitments: several in one plan, nested and beside each other, with lines that pay back and discounts before them.

A seed and three sizes decide everything, as in strategies.py. Amounts are of the size of what is used, so that most
commitments are passed by one line or another; use lies in the months before the rated one too.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from hypothesis import strategies as st

from tests.properties.strategies import MICROSECOND, World, discount, scope, seeds

Row = dict[str, Any]
MONTH = "2026-03"
ZONES = ("UTC", "Europe/Paris", "America/New_York")
METERS = ("calls", "disk", "back")
MODELS = ("a", "b", None)
UNITS = ("1", "0.5", "0.333333333333", "3.005")
QUANTITIES = ("1", "2", "7", "10", "0.5", "33.333333333", "100", "0")
AMOUNTS = ("0", "5", "19.995", "50", "100", "333.333333333333")
FACTORS = ("1.2", "1.5", "2", "2.000001", "1")
STARTS = ("2025-12-15", "2026-01-01", "2026-01-31", "2026-02-10T10:30:00+01:00", "2026-03-08")
ENDS = (None, None, None, "2026-03-20", "2026-04-01")
DATES = (
    "2026-01-01",
    "2026-01-15T12:00:00Z",
    "2026-02-01",
    "2026-02-20",
    "2026-03-01",
    "2026-03-08T07:30:00Z",
    "2026-03-20",
)


def prices(chance: Random, number: int, count: int, again: str) -> list[Row]:
    made: list[Row] = []
    for at in range(count):
        meter = chance.choice(METERS)
        unit_price = f"-{chance.choice(UNITS)}" if meter == "back" else chance.choice(UNITS)
        metered = {"meter": meter, "type": "unit", "unit_price": unit_price, "by": chance.choice(([], ["model"]))}
        fee = {"type": "flat", "amount": chance.choice(("30", "-12.5", "19.995")), "when": chance.choice(WHENS)}
        made.append({"id": f"p{number}-{at}{again}", **chance.choice((metered, metered, metered, fee))})
    return made


WHENS = ("in_advance", "in_arrears")


def commitment(chance: Random, number: int, ids: list[str]) -> Row:
    periods = chance.choice((1, 1, 2, 3, "plan_life", "plan_life"))
    return {
        "id": f"promise{number}",
        "amount": chance.choice(AMOUNTS),
        "overage_factor": chance.choice(FACTORS),
        "true_up": chance.random() < 0.5,
        "prorate": chance.random() < 0.6 and periods != "plan_life",
        "periods": periods,
        "share": chance.choice(("in_order", "pro_rata")),
        **scope(chance, ids),
    }


def plan(seed: int, number: int, version: int, count: int) -> Row:
    chance = Random(f"{seed} committed plan {number} {version}")
    priced = prices(chance, number, count, "-again" if version > 1 else "")
    ids = [price["id"] for price in priced]
    promised = [commitment(chance, at, ids) for at in range(chance.choice((1, 1, 2, 3)))]
    made: Row = {
        "name": f"p{number}", "version": version, "currency": Random(f"{seed} {number}").choice(("USD", "USD", "JPY", "KWD")),
        "billing_period": {
            "every": chance.choice(("month", "month", "month", "week")),
            "anchor": chance.choice(("calendar", "calendar", "subscription")),
            "timezone": chance.choice(ZONES),
            "proration": chance.choice(("instants", "local_days")),
        },
        "prices": priced,
        "commitments": promised,
        "discounts": [discount(chance, f"off{at}", ids) for at in range(chance.choice((0, 0, 1)))],
    }  # fmt: skip
    if chance.random() < 0.3:
        made["minimums"] = [{"id": "least", "amount": chance.choice(AMOUNTS), **scope(chance, ids)}]
    if chance.random() < 0.3:
        made["maximums"] = [{"id": "most", "amount": "5000", **scope(chance, ids)}]
    if chance.random() < 0.2:
        made["late_usage_days"] = chance.choice((0, 10))
    if chance.random() < 0.2:
        made["switches"] = chance.choice(({"round_at": "component"}, {"minimum_share": "whole_days"}))
    return made


def subscription(seed: int, number: int, *, has_next: bool) -> Row:
    chance = Random(f"{seed} committed subscription {number}")
    start, until = chance.choice(STARTS), chance.choice(ENDS)
    made: Row = {
        "id": f"s{number}",
        "tenant": f"t{chance.choice((number, 0))}",
        "plan": f"p{number}",
        "version": 1,
        "from": start,
    }
    made |= {} if until is None else {"until": until}
    later = [date for date in ("2026-02-15", "2026-03-01", "2026-03-12T12:00:00Z") if date > start[:10]]
    if has_next and later and chance.random() < 0.7:
        made["changes"] = [{"from": chance.choice(later), "version": 2}]
    return made


def committed_world_of(seed: int, plans: int, count: int, events: int) -> World:
    """Return a world of some plans with so many prices each."""
    chance = Random(f"{seed} committed")
    versions = [chance.choice((1, 1, 2)) for _ in range(plans)]
    held = [subscription(seed, number, has_next=versions[number] > 1) for number in range(plans)]
    made = [plan(seed, number, version + 1, count) for number in range(plans) for version in range(versions[number])]
    tenants = sorted({one["tenant"] for one in held})
    ids = sorted({price["id"] for one in made for price in one["prices"]})
    deals = [{**discount(chance, "deal", ids), "currency": "USD"}] if chance.random() < 0.3 else []
    deals = [{name: value for name, value in one.items() if name != "currency" or "amount" in one} for one in deals]
    catalog = {
        "meters": [{"name": name, "attributes": ["model"]} for name in METERS],
        "plans": made,
        "accounts": [{"id": "payer", "name": "Payer", "tenants": tenants, "discounts": deals}],
        "subscriptions": held,
    }
    return World(catalog, [event(seed, number, tenants) for number in range(events)], MONTH)


def event(seed: int, number: int, tenants: list[str]) -> Row:
    chance = Random(f"{seed} committed event {number}")
    model = chance.choice(MODELS)
    at = datetime.fromisoformat(chance.choice(DATES)).replace(tzinfo=UTC)
    at += chance.choice((timedelta(0), timedelta(0), -MICROSECOND, timedelta(days=9)))
    return {
        "tenant_id": chance.choice(tenants),
        "meter": chance.choice((*METERS, "calls", "disk")),
        "event_time": at,
        "attributes": {} if model is None else {"model": model},
        "quantity": chance.choice(QUANTITIES),
        "recorded_at": at + chance.choice((timedelta(0), timedelta(0), timedelta(days=3), timedelta(days=40))),
        "producer_id": "x",
        "segment": 0,
        "row": number,
        "idempotency_key": None,
    }


def nested_world_of(seed: int) -> World:
    """Return a world of one plan by the month, with a pot inside another, and two fees that are equal."""
    chance = Random(f"{seed} nested")
    base = committed_world_of(seed, 1, 1, 24)
    fees = [{"id": f"p0-{at}", "type": "flat", "amount": "30.01", "when": "in_arrears"} for at in (1, 2)]
    calls = {"id": "p0-0", "meter": "calls", "type": "unit", "unit_price": "1"}
    # What is paid back makes room again in both, or stands beside the outer one.
    back = {"id": "p0-3", "meter": "back", "type": "unit", "unit_price": "-1"}
    around = [calls["id"], *(fee["id"] for fee in fees), *([back["id"]] if chance.random() < 0.6 else [])]
    shares = ("in_order", "pro_rata")
    inner = {
        "id": "inner", "amount": chance.choice(("5", "50", "300")), "overage_factor": "2", "prorate": False, "prices": ["p0-0"],
        "periods": chance.choice((2, "plan_life")), "share": chance.choice(shares),
    }  # fmt: skip
    outer = {
        "id": "outer", "amount": chance.choice(("100", "400", "2000")), "overage_factor": "1.5", "prorate": False,
        "periods": chance.choice((3, "plan_life")), "share": chance.choice(shares), "prices": around,
    }  # fmt: skip
    made = {
        "name": "p0", "version": 1, "currency": "USD", "prices": [calls, *fees, back],
        "commitments": [inner, outer],
    }  # fmt: skip
    until = chance.choice(({}, {"until": "2026-03-20"}, {"until": "2026-04-01"}))
    held = {"id": "s0", "tenant": "t0", "plan": "p0", "version": 1, "from": "2026-01-01", **until}
    account = {"id": "payer", "name": "Payer", "tenants": ["t0"]}
    catalog = {**base.catalog, "plans": [made], "subscriptions": [held], "accounts": [account]}
    return World(catalog, [{**event, "tenant_id": "t0"} for event in base.events], MONTH)


def committed_worlds() -> st.SearchStrategy[World]:
    return st.builds(committed_world_of, seeds(), st.integers(1, 2), st.integers(1, 4), st.integers(0, 30))
