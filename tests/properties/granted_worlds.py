"""Worlds of prices whose included units come from grants: quotas with and without rollover, top-ups, changes of plan, add-ons.

A seed and three sizes decide everything, as in strategies.py. Events lie in four months, so that what is carried into the month
that is rated was used before it. A world of many tenants is rated in the time of one with few.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

from hypothesis import strategies as st

from tests.properties.strategies import EDGES, MICROSECOND, UNIT_PRICES, VALUES, World, seeds

Row = dict[str, Any]
METERS = {"tokens": "sum", "calls": "count", "disk": "max"}
ZONES = ("UTC", "Europe/Paris", "America/New_York")
MONTH = "2026-03"
# Ends and beginnings of what is held; several of them meet billing periods and each other.
DATES = ("2026-01-01", "2026-01-15", "2026-02-01", "2026-02-20T12:00:00Z", "2026-03-01", "2026-03-08T07:30:00Z",
         "2026-03-20", "2026-04-01")  # fmt: skip
QUANTITIES = ("1", "2", "0.5", "0.000000001", "9.999999999", "10", "3", "0", "40")


def entitlement(chance: Random, feature: str) -> Row:
    said: Row = {"feature": feature, "type": "metered", "meter": feature}
    if chance.random() < 0.12:
        return said
    said["quota"] = chance.choice(EDGES)
    if chance.random() < 0.4:
        said["rollover_max"] = chance.choice(EDGES)
        if chance.random() < 0.4:
            said["rollover_min"] = chance.choice(
                [edge for edge in EDGES if Decimal(edge) <= Decimal(said["rollover_max"])]
            )
    if chance.random() < 0.3:
        said["priority"] = chance.choice((0, 100, 200))
    return said


def price(chance: Random, feature: str, version: int) -> Row:
    kind = chance.choice(("unit", "graduated", "volume", "package"))
    made: Row = {"id": f"p{version}-{feature}", "meter": feature, "type": kind, "included_from": feature}
    if feature != "disk" and chance.random() < 0.4:
        made["by"] = ["model"]
    if kind == "unit":
        made["unit_price"] = chance.choice(UNIT_PRICES)
    elif kind == "package":
        made |= {"package_size": "2", "package_price": "1.005"}
    else:
        made["tiers"] = [{"up_to": "2", "unit_price": "1", "flat_amount": "5"}, {"unit_price": "0.333333333333"}]
    return made


def catalog(seed: int, tenants: list[str], grants: int) -> Row:
    chance = Random(f"{seed} granted")
    terms = {"timezone": chance.choice(ZONES)}
    plans: list[Row] = []
    # Versions follow each other in twos.
    for version in range(1, 3 + len(tenants) // 5 * 2):
        features = [feature for feature in METERS if chance.random() < 0.8]
        plans.append(
            {
                "name": "base", "version": version, "currency": "USD", "billing_period": terms,
                "entitlements": [entitlement(chance, feature) for feature in features],
                "prices": [price(chance, feature, version) for feature in features],
            }
        )  # fmt: skip
    addon = {"name": "addon", "version": 1, "currency": "USD", "billing_period": terms}
    plans.append({**addon, "prices": [], "entitlements": [entitlement(chance, "tokens")]})
    subscriptions: list[Row] = []
    for number, tenant in enumerate(tenants):
        subscriptions += held_by(chance, tenant, 1 + number // 5 * 2)
    made = []
    for number in range(grants):
        dates = sorted(chance.sample(DATES, 2))
        grant = {"id": f"g{number}", "tenant": chance.choice(tenants), "feature": chance.choice((*METERS, "tokens")),
                 "amount": chance.choice(EDGES[1:]), "effective": dates[0]}  # fmt: skip
        if chance.random() < 0.5:
            grant["expires"] = dates[1]
        if chance.random() < 0.3:
            grant["recurs"] = chance.choice(("day", "week", "month"))
        if chance.random() < 0.3:
            grant["rollover_max"] = chance.choice(EDGES)
        if chance.random() < 0.3:
            grant["priority"] = chance.choice((0, 50))
        taken_back = Random(f"{seed} voided {number}")
        if taken_back.random() < 0.15:
            grant["voided"] = taken_back.choice(DATES)
        made.append(grant)
    return {
        "meters": [{"name": name, "aggregation": how} for name, how in METERS.items()],
        "plans": plans,
        "accounts": [{"id": "payer", "name": "Payer", "tenants": tenants}],
        "subscriptions": subscriptions,
        "grants": made,
    }


def held_by(chance: Random, tenant: str, version: int) -> list[Row]:
    """Return one subscription, or two after each other, or one that changes its plan; perhaps an add-on beside them."""
    first, second, third = sorted(chance.sample(DATES, 3))
    start = {"id": f"s-{tenant}", "tenant": tenant, "plan": "base", "version": version, "from": first}
    found = [start]
    form = chance.choice(("one", "change", "next", "gap"))
    if form == "change":
        start["changes"] = [{"from": second, "version": version + 1}]
    elif form != "one":
        start["to"] = second
        found.append(
            {**start, "id": f"n-{tenant}", "version": version + 1, "from": second if form == "next" else third}
        )
        del found[-1]["to"]
    if chance.random() < 0.4:
        begin, end = sorted(chance.sample(DATES, 2))
        found.append({"id": f"a-{tenant}", "tenant": tenant, "plan": "addon", "version": 1, "from": begin})
        if chance.random() < 0.6:
            found[-1]["to"] = end
    return found


def event(seed: int, number: int, tenants: list[str]) -> Row:
    chance = Random(f"{seed} granted event {number}")
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=chance.randint(0, 95), hours=chance.choice((0, 0, 5, 23)))
    return {
        "tenant_id": chance.choice(tenants),
        "meter": chance.choice((*METERS, "tokens")),
        "event_time": at + chance.choice((-1, 0, 0, 1)) * MICROSECOND,
        "attributes": {"model": chance.choice(VALUES)},
        "quantity": chance.choice(QUANTITIES),
        "recorded_at": datetime(2026, 1, 1, tzinfo=UTC),
        "producer_id": "x",
        "segment": 0,
        "row": number,
        "idempotency_key": None,
    }


def granted_world_of(seed: int, tenants: int, grants: int, events: int) -> World:
    names = [f"t{number}" for number in range(tenants)]
    return World(catalog(seed, names, grants), [event(seed, number, names) for number in range(events)], MONTH)


def granted_worlds() -> st.SearchStrategy[World]:
    return st.builds(granted_world_of, seeds(), st.integers(1, 12), st.integers(0, 16), st.integers(0, 120))
