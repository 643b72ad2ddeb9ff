"""Worlds in which maximums hold, by rounding alone or by far: many lines of half a minor unit under maximums that overlap.

A capped world is one month of plans with flat and unit prices whose lines are just at, just below and just above half a minor
unit, some of them negative, and with up to four maximums over any of them, whole and prorated.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

from hypothesis import strategies as st

from tests.properties.strategies import World, seeds

Row = dict[str, Any]
MONTH = "2026-03"
START = datetime(2026, 3, 3, tzinfo=UTC)
DIGITS = {"USD": 2, "JPY": 0, "KWD": 3}
# In minor units: halves that are rounded up, what is nearly half, whole ones, credits.
SIZES = ("0.5", "0.5", "1.5", "2.5", "0.4", "1.49", "0.51", "1", "3", "33.35", "-0.5", "-1.5", "-2", "-10.25", "0")
MAXIMUMS = ("0", "1", "2.5", "2.5", "3.49", "5", "7.5", "12", "30", "66.5")
SWITCHES: tuple[dict[str, str], ...] = (
    {}, {}, {}, {"round_at": "component"}, {"round_at": "component"}, {"round_at": "unit_price"},
    {"min_max_order": "minimum_first"}, {"min_max_order": "maximum_first"},
)  # fmt: skip
METERS = [{"name": "sum", "attributes": ["model"]}]


def _price(chance: Random, price_id: str, minor: Decimal) -> Row:
    amount = f"{Decimal(chance.choice(SIZES)) * minor:f}"
    if chance.random() < 0.6:
        return {"id": price_id, "type": "flat", "amount": amount, "prorate": chance.random() < 0.3}
    return {"id": price_id, "meter": "sum", "type": "unit", "unit_price": amount, "by": ["model"]}


def _scope(chance: Random, ids: list[str]) -> Row:
    return {"prices": chance.sample(ids, chance.randint(1, len(ids)))} if chance.random() < 0.8 else {}


def capped_plan(seed: int, name: str, prices: int) -> Row:
    chance = Random(f"{seed} capped {name}")
    currency = chance.choice(tuple(DIGITS))
    minor = Decimal(1).scaleb(-DIGITS[currency])
    priced = [_price(Random(f"{seed} capped {name} {at}"), f"{name}-{at}", minor) for at in range(prices)]
    ids = [price["id"] for price in priced]

    def maximum(one_id: str) -> Row:
        amount = f"{Decimal(chance.choice(MAXIMUMS)) * minor:f}"
        return {"id": one_id, "amount": amount, "prorate": chance.random() < 0.3, **_scope(chance, ids)}

    switches = chance.choice(SWITCHES)
    made: Row = {
        "name": name, "version": 1, "currency": currency, "billing_period": {"timezone": "Europe/Paris"}, "prices": priced,
        "maximums": [maximum(f"most{at}") for at in range(chance.choice((1, 2, 2, 3, 4)))], "switches": switches,
    }  # fmt: skip
    if chance.random() < 0.3:
        made["discounts"] = [{"id": "off", "percent": "33.3333", **_scope(chance, ids)}]
    if chance.random() < 0.3:
        promised = {"id": "promised", "amount": f"{2 * minor:f}", "overage_factor": "1.5", "true_up": False}
        made["commitments"] = [{**promised, **_scope(chance, ids)}]
    if "min_max_order" in switches:
        made["minimums"] = [{"id": "least", "amount": f"{7 * minor:f}", **_scope(chance, ids)}]
    return made


def _event(chance: Random, number: int, plans: int) -> Row:
    when = START + timedelta(days=chance.randint(0, 27), hours=chance.choice((0, 12)))
    return {
        "tenant_id": f"t{chance.randrange(plans)}", "meter": "sum", "quantity": chance.choice(("1", "1", "0.5", "2", "9")),
        "event_time": when, "recorded_at": when, "producer_id": "x", "segment": 0, "row": number, "idempotency_key": None,
        "attributes": {"model": chance.choice("abcdef")},
    }  # fmt: skip


def capped_world_of(seed: int, plans: int, prices: int, events: int) -> World:
    subscriptions = [
        {"id": f"s{at}", "tenant": f"t{at}", "plan": f"p{at}", "version": 1,
         "from": Random(f"{seed} joined {at}").choice(("2026-01-01", "2026-03-02T12:00:00+01:00", "2026-03-17"))}
        for at in range(plans)
    ]  # fmt: skip
    catalog = {
        "meters": METERS,
        "plans": [capped_plan(seed, f"p{at}", prices) for at in range(plans)],
        "accounts": [{"id": f"payer{at}", "name": "Payer", "tenants": [f"t{at}"]} for at in range(plans)],
        "subscriptions": subscriptions,
    }
    made = [_event(Random(f"{seed} capped event {number}"), number, plans) for number in range(events)]
    return World(catalog, made, MONTH)


def capped_worlds() -> st.SearchStrategy[World]:
    return st.builds(capped_world_of, seeds(), st.integers(1, 4), st.integers(1, 8), st.integers(0, 30))
