"""Worlds of everything else: meters of every kind, tiers over what is held, corrections, and use that is told too late.

A wide world is a world of strategies.py in which prices measure in other ways and plans have other terms. Each change has a
random source of its own, so that the worlds of strategies.py, and the mutants that they catch, stay what they are.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

from hypothesis import strategies as st
from pydantic import TypeAdapter

from metering.catalog import Meter
from rating.price_meters import find_misfits
from rating.prices import Price
from tests.properties import usages
from tests.properties.strategies import FLAT_AMOUNTS, SPEND, World, edges_of, event, seeds, tiers, world_of

Row = dict[str, Any]
PRICE: TypeAdapter[Any] = TypeAdapter(Price)
METERS = 12
# A level that is prorated by days: the one kind of meter whose tiers can hold units.
LEVEL = {
    "name": "level", "aggregation": "sum", "carry": "recurring", "prorate": "day", "negative_allowed": True
}  # fmt: skip


def meters_of(seed: int) -> list[Row]:
    return [LEVEL, *(usages.meter(Random(f"{seed} wide meter {number}"), f"wide{number}") for number in range(METERS))]


def widened(seed: int, price: Row, meters: list[Row], form: str | None) -> Row:
    """Return a price in one of the FORMS, or on a meter of another kind, where they fit; else as it was."""
    chance = Random(f"{seed} wide price {price['id']}")
    if price["type"] == "flat" or (form is None and chance.random() < 0.15):
        return price
    if form is not None or chance.random() < 0.3:
        return FORMS[form or chance.choice(sorted(FORMS))](chance, price)
    on = chance.choice(meters)
    made = {**price, "meter": on["name"], **({"cut": "any"} if chance.random() < 0.2 else {})}
    misfits = list(find_misfits(PRICE.validate_python(made), Meter.model_validate(on)))
    return price if misfits else made


def held(chance: Random, price: Row) -> Row:
    """Return a price whose tiers hold units."""
    kept = {name: price[name] for name in ("id", "where", "by", "sibling") if name in price}
    simple = ("up_to", "unit_price", "flat_amount")
    steps = [{name: tier[name] for name in simple if name in tier} for tier in tiers(chance, "graduated")]
    kind = chance.choice(("graduated", "volume"))
    if kind == "volume":
        # Few tiers, far apart: what is held at the end and its share of days are often in two of them.
        edges = sorted(chance.sample(("1", "2", "10", "12.25"), 2), key=Decimal)
        steps = [{"up_to": edges[0], "unit_price": "1"}, {"up_to": edges[1], "unit_price": "0.5"}, {"unit_price": "3"}]
    return {**kept, "meter": "level", "type": kind, "tiers_by": "held", "tiers": steps}


def _kept(price: Row) -> Row:
    return {name: price[name] for name in ("id", "where", "by", "sibling") if name in price}


def _metered(chance: Random, price: Row, meter: str, **more: Any) -> Row:
    """Return a price of a quantity of one of the plain meters."""
    kind = chance.choice(("unit", "graduated", "volume", "package", "stairstep"))
    made: Row = {**_kept(price), "meter": meter, "type": kind}
    if kind == "unit":
        made["unit_price"] = chance.choice(("1", "0.5", "3.333333333333"))
    elif kind == "package":
        made |= {"package_size": chance.choice(("0.5", "2", "10")), "package_price": chance.choice(FLAT_AMOUNTS)}
    else:
        made["tiers"] = tiers(chance, kind)
    return made | more


def capacity(chance: Random, price: Row) -> Row:
    """Return a capacity of two or three meters, with limits that rise."""
    named = chance.sample(("max", "last", "sum", "level", "count"), chance.choice((2, 2, 3)))
    edges = [sorted(chance.sample(("0", "0.5", "1", "2", "3", "10", "12.25"), 2), key=Decimal) for _ in named]
    limits = [{name: edge[at] for name, edge in zip(named, edges, strict=True)} for at in range(2)]
    if chance.random() < 0.3:
        limits[1].pop(named[-1])
    made = [{"limits": some, "flat_amount": chance.choice(FLAT_AMOUNTS)} for some in limits]
    made.append({"flat_amount": chance.choice(FLAT_AMOUNTS)})
    return {"id": price["id"], "where": price.get("where", {}), "type": "capacity", "meters": named, "tiers": made}


def combination(chance: Random, price: Row) -> Row:
    """Return a price of two meters put together, sometimes by bucket or with units included."""
    mine, other = chance.sample(("sum", "count", "max", "unique_count"), 2)
    rule = {"by": chance.choice(("divide", "multiply", "add", "subtract")), "meter": other}
    if chance.random() < 0.3:
        rule["where"] = {"region": ["a", "1", "true"]}
    more = {"price_per": chance.choice(("day", "month"))} if chance.random() < 0.3 else {}
    return _metered(chance, price, mine, combine=rule, **more, **({"included": "0.5"} if chance.random() < 0.3 else {}))


def largest(chance: Random, price: Row) -> Row:
    made = _metered(chance, {**price, "by": ["model"]}, chance.choice(("sum", "max", "count")), groups_priced="largest")
    return made | ({"included": "1", "included_per": "group"} if chance.random() < 0.3 else {})


def prorated(chance: Random, price: Row) -> Row:
    return _metered(chance, price, "sum", included=chance.choice(("1", "10", "12.25")), prorate_included=True)


def promised(chance: Random, price: Row) -> Row:
    """Return a price in which every day, week or month promises an amount."""
    rule = {
        "amount": chance.choice(("0", "1", "2.5", "0.333333333333")), "overage_factor": chance.choice(("1", "1.5", "2.000001")),
        "true_up": chance.random() < 0.6,
    }  # fmt: skip
    kept = {**price, "by": []}
    return _metered(chance, kept, "sum", price_per=chance.choice(("day", "week", "month")), bucket_commitment=rule)


def clamped(chance: Random, price: Row) -> Row:
    """Return a price of groups each of which costs at least and at most so much; sometimes a part of a period owes its share."""
    limits: Row = {}
    if chance.random() < 0.8:
        limits = {"minimum": chance.choice(("0.333333333333", "7", "40")), "prorate": chance.random() < 0.8}
    if not limits or chance.random() < 0.5:
        limits["maximum"] = chance.choice(("40", "123.45")) if limits else chance.choice(("7", "40"))
    kept = {**price, "by": chance.choice(([], [], ["model"], ["region", "model"]))}
    if chance.random() < 0.3:
        made = {**_kept(kept), "type": "percentage", "meter": SPEND, "percent": "30", "fixed_amount": "0.3"}
        return {**made, "line_limits": limits}
    return _metered(chance, kept, chance.choice(("sum", "max", "count")), line_limits=limits)


def pooled(chance: Random, price: Row) -> Row:
    """Return a matrix with a pool of included units over its cells."""
    values = sorted(chance.sample(("a", "1", "A", "true", "é"), 3))
    cells = [
        {"values": [value], "unit_price": chance.choice(("1", "0.5", "3.333333333333", "-0.25"))} for value in values
    ]
    made = {**_kept(price), "type": "matrix", "meter": "sum", "attributes": ["model"], "cells": cells}
    made |= {"default_unit_price": "0.5", "by": chance.choice(([], ["region"]))}
    return {
        **made,
        "pool": chance.choice(("0", "1", "2.5", "12.25")),
        "pool_order": chance.choice(("cheapest", "dearest", "pro_rata")),
    }


def money_off(chance: Random, price: Row) -> Row:
    """Return a price with percentages off parts of what each line costs, sometimes within limits, or over life-long tiers."""
    kept = {**price, "by": chance.choice(([], ["model"], ["region", "model"]))}
    made = chance.choice((pooled, pooled, clamped, lifelong))(chance, kept)
    if "line_limits" in made and chance.random() < 0.5:
        made.pop("line_limits")
    edges = sorted(chance.sample(("0.333333333333", "1", "2.5", "7", "40"), chance.choice((0, 1, 1, 2))), key=Decimal)
    steps: list[Row] = [{"up_to": edge} for edge in edges] + [{}]
    for step in steps:
        step["percent_off"] = chance.choice(("0", "10", "33.3333", "100", "0.0001"))
    return {**made, "amount_tiers": steps}


def by_group(chance: Random, price: Row) -> Row:
    """Return a volume of all groups in which a tier says what a unit of a group costs."""
    edges = sorted(chance.sample(("0.5", "1", "3", "12.25"), chance.choice((1, 2))), key=Decimal)
    steps: list[Row] = [{"up_to": edge} for edge in edges] + [{}]
    for step in steps:
        step["unit_price"] = chance.choice(("1", "0.5"))
        named = chance.sample(("a", "1", "A", "true", "é"), chance.randint(0, 3))
        if named:
            step["unit_prices"] = {value: chance.choice(("0", "3.333333333333", "-0.25", "7")) for value in named}
        if chance.random() < 0.3:
            step["flat_amount"] = chance.choice(FLAT_AMOUNTS)
    meter = chance.choice(("sum", "count", "max"))
    return {
        **_kept(price), "type": "volume", "meter": meter, "by": ["model"], "tiers_over": "all_groups", "tiers": steps
    }  # fmt: skip


def in_proportion(chance: Random, price: Row) -> Row:
    return {**pooled(chance, price), "pool_order": "pro_rata"}


def lifelong(chance: Random, price: Row) -> Row:
    """Return a price whose tiers go on from period to period."""
    simple = ("up_to", "unit_price", "flat_amount")
    steps = [{name: tier[name] for name in simple if name in tier} for tier in tiers(chance, "graduated")]
    kept = {name: price[name] for name in ("id", "where") if name in price}
    made = {**kept, "type": "graduated", "meter": chance.choice(("count", SPEND)), "tiers": steps}
    return {**made, "by": chance.choice(([], ["model"])), "tiers_since": "plan_start"}


def percent_of(chance: Random, price_id: str, others: list[str]) -> Row:
    """Return a percentage of some of the other prices."""
    some = sorted(chance.sample(others, chance.randint(1, len(others))))
    made = {
        "id": price_id,
        "type": "percent_of",
        "percent": chance.choice(("10", "0.0001", "33.3333", "150")),
        "prices": some,
    }
    if chance.random() < 0.6:
        made["line_limits"] = {
            "minimum": chance.choice(("0", "12.345", "150", "150")),
            "prorate": chance.random() < 0.5,
        }
    elif chance.random() < 0.7:
        made["line_limits"] = {"maximum": chance.choice(("1", "12.345"))}
    return made


# Terms of their own, each as (source of chance, price) -> price.
FORMS = {
    "held": held, "capacity": capacity, "combination": combination, "largest": largest, "prorated": prorated,
    "promised": promised, "clamped": clamped,
    "pooled": pooled, "by_group": by_group, "lifelong": lifelong,
    "in_proportion": in_proportion, "money_off": money_off,
}  # fmt: skip


def plan_of(seed: int, plan: Row, meters: list[Row], form: str | None) -> Row:
    chance = Random(f"{seed} wide plan {plan['name']} {plan['version']}")
    each = None if form == "percent_of" else form
    made = {**plan, "prices": [widened(seed, price, meters, each) for price in plan["prices"]]}
    summed = Random(f"{seed} percent of {plan['name']} {plan['version']}")
    if made["prices"] and (form == "percent_of" or (form is None and summed.random() < 0.2)):
        made["prices"].append(percent_of(summed, f"{plan['name']}-of", [price["id"] for price in made["prices"]]))
    if chance.random() < 0.5:
        made["switches"] = {"held_flats": "peak"}
    if chance.random() < 0.3:
        made["late_usage_days"] = chance.choice((0, 0, 1, 10))
    if made["billing_period"]["every"] in {"quarter", "year"}:
        # The oracle counts every hour of a period; those of a month are enough.
        made["billing_period"] = {**made["billing_period"], "every": "month"}
    return made


def event_of(seed: int, number: int, catalog: Row, instants: list[Any]) -> Row:
    """Return an event, which may be recorded late, or may void or replace an earlier one."""
    chance = Random(f"{seed} wide event {number}")
    made = event(seed, number, catalog, instants)
    made["row"] = number
    made["attributes"] |= {"op": chance.choice(("add", "remove", "remove", "other"))} if chance.random() < 0.7 else {}
    if chance.random() < 0.3:
        late = chance.choice((timedelta(0), timedelta(days=3), timedelta(days=40)))
        made["recorded_at"] = made["event_time"] + late
    if number and chance.random() < 0.15:
        named = event_of(seed, chance.randint(0, number - 1), catalog, instants)
        by_key = named["idempotency_key"] is not None and chance.random() < 0.5
        origin = {name: named[name] for name in ("producer_id", "segment", "row")}
        made["correction"] = {
            "verb": chance.choice(("void", "replace")), **({"key": named["idempotency_key"]} if by_key else origin)
        }  # fmt: skip
        made["tenant_id"] = chance.choice((named["tenant_id"], named["tenant_id"], made["tenant_id"]))
        made["idempotency_key"] = None
    return made


def wide_world_of(seed: int, plans: int, prices: int, events: int, form: str | None = None) -> World:
    """Return a wide world; with a `form` all its metered prices have that one."""
    base = world_of(seed, plans, prices, 0)
    meters = meters_of(seed)
    made = {**base.catalog, "meters": [*base.catalog["meters"], *meters]}
    made["plans"] = [plan_of(seed, plan, meters, form) for plan in base.catalog["plans"]]
    instants = instants_of(seed, made, base.month)
    return World(made, [event_of(seed, number, made, instants) for number in range(events)], base.month)


def instants_of(seed: int, made: Row, month: str) -> list[datetime]:
    """Return the few instants at which the events of a world happen."""
    chance, edges = Random(f"{seed} wide world"), edges_of(made, month)
    instants = [chance.choice(edges) for _ in range(8)]
    # What a level carries comes from before the period.
    return [*instants, min(edges) - timedelta(days=chance.choice((1, 400)))]


def wide_worlds() -> st.SearchStrategy[World]:
    return st.builds(wide_world_of, seeds(), st.integers(1, 2), st.integers(1, 8), st.integers(0, 50))
