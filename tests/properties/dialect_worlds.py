"""Worlds whose plans read their terms as other systems do: every switch that changes what a line is worth.

A dialect world is a wide world in which plans have switches, and terms on which the answers differ: tiers that end, caps below
minimums, quantities in gaps between whole numbers, allowances that end exactly on an event.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

from hypothesis import strategies as st

from tests.properties.strategies import EDGES, FLAT_AMOUNTS, World, seeds, tiers
from tests.properties.wide_worlds import LEVEL, event_of, held, instants_of, wide_world_of

Row = dict[str, Any]

# Every value of a switch that worth() looks at, besides ours.
CHOICES = {
    "tier_edge": ("lower",),
    "tier_gap": ("lost",),
    "tiers_past_end": ("extend", "lose"),
    "flat_at_zero": ("waived",),
    "part_package": ("down",),
    "round_at": ("component", "unit_price"),
    "proration_basis": ("local_days", "days_inclusive"),
    "discount_order": ("amount_first", "listed"),
    "min_max_order": ("minimum_first", "maximum_first"),
    "residue": ("largest_line", "five_decimals"),
    "allowance_edge": ("fixed_due",),
    "allowance_pair": ("units_only",),
    "minimum_share": ("whole_days",),
    "negative_value": ("minimum",),
    "held_flats": ("peak",),
}
# A meter that counts money, and takes it back.
REFUND = {"name": "refund", "attributes": ["model", "region", "user", "price"], "negative_allowed": True}


def read_otherwise(seed: int, plan: Row, switches: dict[str, str] | None = None) -> Row:
    """Return a plan with switches, random ones or those given, and with terms on which their answers differ."""
    chance = Random(f"{seed} dialect {plan['name']} {plan['version']}")
    chosen = switches or {name: chance.choice(some) for name, some in CHOICES.items() if chance.random() < 0.35}
    made = {**plan, "switches": chosen, "prices": [read_price(chance, price, chosen) for price in plan["prices"]]}
    if "proration_basis" in chosen:
        made["billing_period"] = {**made["billing_period"], "proration": "instants"}
    if "min_max_order" in chosen and made.get("minimums"):
        # Caps over the same prices and over more of them, below and above what is owed.
        ids = [price["id"] for price in plan["prices"]]
        scopes = [made["minimums"][0].get("prices", ids), ids]
        made["maximums"] = [
            {
                "id": f"most{at}",
                "amount": chance.choice(("0.335", "7", "19.995", "50")),
                "prices": some,
                "prorate": at == 0,
            }
            for at, some in enumerate(scopes)
        ]
    return made


def read_price(chance: Random, price: Row, switches: dict[str, str]) -> Row:
    made = dict(price)
    tiers = made.get("tiers", [])
    ends = switches.get("tiers_past_end") in {"extend", "lose"}
    if ends and len(tiers) > 1 and made["type"] != "capacity" and made.get("tiers_by") != "held":
        made["tiers"] = tiers[:-1]
    if "negative_value" in switches and made["type"] == "percentage":
        made = {name: value for name, value in made.items() if name not in {"free_events", "free_units"}}
        made |= {"meter": REFUND["name"], "event_minimum": chance.choice(("0.5", "0.31"))}
        made.pop("sibling", None)
    return made


def dialect_world_of(
    seed: int, plans: int, prices: int, events: int, switches: dict[str, str] | None = None, form: str | None = None
) -> World:
    """Return a dialect world; with `switches` all its plans have these."""
    base = wide_world_of(seed, plans, prices, 0, form)
    made = {**base.catalog, "meters": [*base.catalog["meters"], REFUND]}
    made["plans"] = [read_otherwise(seed, plan, switches) for plan in base.catalog["plans"]]
    instants = instants_of(seed, made, base.month)
    return World(made, [event_of(seed, number, made, instants) for number in range(events)], base.month)


def dialect_worlds() -> st.SearchStrategy[World]:
    return st.builds(dialect_world_of, seeds(), st.integers(1, 2), st.integers(1, 8), st.integers(0, 50))


MONEY = {"name": "money", "attributes": ["model"]}
SUM = {"name": "sum", "attributes": ["model"]}
PRICES, EVENTS = 10, 40
START = datetime(2026, 3, 3, tzinfo=UTC)


def _tiered(chance: Random, price_id: str) -> Row:
    """Return tiers whose edges are met: each value of the attribute is a group with few events."""
    kind = chance.choice(("volume", "graduated", "stairstep"))
    made = {"id": price_id, "meter": "sum", "type": kind, "by": ["model"], "tiers": tiers(chance, kind)}
    if chance.random() < 0.3:
        made["where"] = {"model": ["nobody"]}
        made["by"] = []
    elif chance.random() < 0.4:
        made["tiers_over"] = "all_groups"
    return made


def _held(chance: Random, price_id: str) -> Row:
    return held(chance, {"id": price_id, "by": ["model"]})


def _package(chance: Random, price_id: str) -> Row:
    size, amount = chance.choice(EDGES[1:]), chance.choice(FLAT_AMOUNTS[:4])
    return {"id": price_id, "meter": "sum", "type": "package", "package_size": size, "package_price": amount}


def _unit(chance: Random, price_id: str) -> Row:
    unit_price = chance.choice(("0.005", "0.015", "3.333", "0.0049"))
    if chance.random() < 0.5:
        return {"id": price_id, "meter": "sum", "type": "unit", "unit_price": unit_price, "by": ["model"]}
    cells = [{"values": ["a"], "unit_price": unit_price}]
    matrix = {"type": "matrix", "attributes": ["model"], "cells": cells, "default_unit_price": "0.0251"}
    return {"id": price_id, "meter": "sum", **matrix}


def _percentage(chance: Random, price_id: str) -> Row:
    made = {
        "id": price_id,
        "meter": "money",
        "type": "percentage",
        "percent": "2.5",
        "by": chance.choice(([], ["model"])),
    }
    made |= {"fixed_amount": "0.3", "free_units": chance.choice(("1", "2", "3", "10"))}
    for name, values in {
        "free_events": (1, 2),
        "event_minimum": ("0.5", "0.31"),
        "event_maximum": ("0.6", "2"),
    }.items():
        if chance.random() < 0.6:
            made[name] = str(chance.choice(values))
    return made


def _refund(chance: Random, price_id: str) -> Row:
    fixed = chance.choice(("0", "0.3"))
    made = {"id": price_id, "meter": "refund", "type": "percentage", "percent": "2.5", "fixed_amount": fixed}
    return {**made, "by": chance.choice(([], ["model"])), "event_minimum": chance.choice(("0.01", "0.5"))}


def _flat(chance: Random, price_id: str) -> Row:
    return {"id": price_id, "type": "flat", "amount": chance.choice(("1", "10", "3.333", "0.01", "49.99"))}


def _nothing(chance: Random, ids: list[str]) -> Row:
    return {}


def _off(chance: Random, ids: list[str]) -> Row:
    made = []
    for at in range(4):
        kind = (
            {"percent": chance.choice(("10", "33.3333"))}
            if (at + len(ids)) % 2
            else {"amount": chance.choice(("1", "20.005"))}
        )
        made.append({"id": f"off{9 - at}", **kind, **({"prices": sorted(chance.sample(ids, 4))} if at < 2 else {})})
    return {"discounts": made}


def _bounds(chance: Random, ids: list[str]) -> Row:
    few = sorted(chance.sample(ids, 3))
    least = [{"id": "least0", "amount": chance.choice(("60", "200")), "prices": few}, {"id": "least1", "amount": "500"}]
    most = [
        {"id": "most0", "amount": chance.choice(("30", "63", "90")), "prices": few},
        {"id": "most1", "amount": "321"},
    ]
    return {"minimums": least, "maximums": most, **_off(chance, ids)}


# The prices, and what stands around them, on which the answers to a switch differ.
FOCUS: dict[str, tuple[Callable[[Random, str], Row], Callable[[Random, list[str]], Row]]] = {
    "tier_edge": (_tiered, _nothing), "tier_gap": (_tiered, _nothing), "tiers_past_end": (_tiered, _nothing),
    "flat_at_zero": (_tiered, _nothing), "part_package": (_package, _nothing), "round_at": (_unit, _off),
    "proration_basis": (_flat, _nothing), "discount_order": (_flat, _off), "min_max_order": (_flat, _bounds),
    "residue": (_flat, _off), "allowance_edge": (_percentage, _nothing), "allowance_pair": (_percentage, _nothing),
    "minimum_share": (_flat, _bounds), "negative_value": (_refund, _nothing), "held_flats": (_held, _nothing),
}  # fmt: skip


def dense_world_of(seed: int, switches: dict[str, str], *, is_held: bool = False) -> World:
    """Return one month of one plan with nothing but prices on which the first of these switches decides."""
    chance = Random(f"{seed} dense")
    make, around = FOCUS[next(iter(switches))]
    make = _held if is_held else make
    prices = [make(Random(f"{seed} dense {at}"), f"p0-{at}") for at in range(PRICES)]
    plan = {
        "name": "p0", "version": 1, "currency": chance.choice(("USD", "KWD")), "prices": prices,
        "billing_period": {"timezone": "Europe/Paris"}, "switches": switches, **around(chance, [one["id"] for one in prices]),
    }  # fmt: skip
    if "min_max_order" not in switches:
        plan.pop("maximums", None)
    elif seed % 2:
        # A second maximum over the same prices, which never decides.
        first = plan["maximums"][0]
        plan["maximums"] = [*plan["maximums"], {**first, "id": "more", "amount": str(Decimal(first["amount"]) + 1)}]
    plan["prices"] = [read_price(chance, price, switches) for price in prices]
    joined = {"id": "s0", "tenant": "t0", "plan": "p0", "version": 1, "from": "2026-03-02T12:00:00+01:00"}
    catalog = {
        "meters": [SUM, MONEY, {**REFUND, "attributes": ["model"]}, {**LEVEL, "attributes": ["model"]}], "plans": [plan],
        "accounts": [{"id": "payer", "name": "Payer", "tenants": ["t0"]}], "subscriptions": [joined],
    }  # fmt: skip
    return World(
        catalog, [_event(Random(f"{seed} dense event {number}"), number) for number in range(EVENTS)], "2026-03"
    )


def _event(chance: Random, number: int) -> Row:
    meter = chance.choice(("sum", "money", "refund", "level"))
    size = chance.choice(("1", "2", "0.5", "1.5", "3", "10", "10.5", "0.000000001", "9.999999999", "90"))
    is_negative = meter in {"refund", "level"} and chance.random() < 0.4
    when = START + timedelta(days=chance.randint(0, 25), hours=chance.choice((0, 12)))
    return {
        "tenant_id": "t0", "meter": meter, "quantity": f"-{size}" if is_negative else size, "event_time": when,
        "recorded_at": when, "producer_id": "x", "segment": 0, "row": number, "idempotency_key": None,
        "attributes": {"model": chance.choice("abcdefgh")},
    }  # fmt: skip


def dense_worlds() -> st.SearchStrategy[World]:
    values = [{switch: value} for switch, some in CHOICES.items() for value in some]
    return st.builds(dense_world_of, seeds(), st.sampled_from(values))
