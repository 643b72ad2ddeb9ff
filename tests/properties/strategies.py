"""Catalogs and usage events for property tests, small and full of edges.

Quantities and tier edges come from the same few numbers, event times from the edges of the very periods that are rated,
one microsecond to either side, attributes from values that are easily mistaken for each other (missing, empty, "null",
1 and "1"). A world is a catalog, events, and the month that is rated.

Hypothesis chooses a seed and three sizes; the seed decides the rest, each plan, price and event from a random source of
its own. So worlds differ in everything at once, and a counterexample still shrinks: by leaving out plans, prices, events.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests import oracle

Row = dict[str, Any]

# A meter that counts money, without negative quantities.
SPEND = "spend"
AGGREGATIONS = ("count", "sum", "max", "min", "last", "unique_count")
# Zones where midnight is skipped, an offset is not in hours, or the clock moves by half an hour.
ZONES = (
    "UTC",
    "Europe/Paris",
    "America/New_York",
    "Africa/Cairo",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "America/Santiago",
)
MONTHS = ("2026-02", "2026-03", "2026-04", "2026-10")
EDGES = ("0", "0.000000001", "0.5", "1", "2", "3.000000001", "10", "12.25", "100")
UNIT_PRICES = ("1", "0.5", "0.005", "0.015", "-0.25", "-0.125", "0", "0.000000000001", "3.333333333333")
FLAT_AMOUNTS = ("5", "0.005", "-0.025", "19.99", "0.333333333333", "0")
QUANTITIES = ("1", "2", "0.5", "0.000000001", "1.000000001", "9.999999999", "10", "3", "-1", "-0.5", "90", "0")
VALUES = ("a", "a", "1", 1, "A", "null", "", None, True, "é", 'say "x"')
# What events carry as their price; some of it is no plain decimal, or has too many of them.
CARRIED = ("0.25", "0.031", 3, "-1.5", "1e3", "", None, "0.000000000001", "0.0000000000001", " 1", "1234567")
ATTRIBUTES = ("model", "region")
STARTS = ("2025-11-30", "2026-01-01", "2026-01-31", "2026-02-10T10:30:00+01:00", "2026-03-08T02:30:00-05:00")
ENDS = (None, None, None, "2026-03-20", "2026-04-01", "2026-10-25T00:30:00Z", "2027-02-01")
MICROSECOND = timedelta(microseconds=1)


BASES = ("thirty_day_month", "local_days", "days_inclusive")
PER_SEAT = {"per_unit_of": "seats"}
CHANGES = ("2026-02-15", "2026-03-01", "2026-03-08T02:30:00-05:00", "2026-03-20T12:00:00Z", "2026-04-02", "2026-10-20")


class World(NamedTuple):
    catalog: Row
    events: list[Row]
    month: str


METERED = ("unit", "graduated", "volume", "package", "stairstep", "graduated_percentage")
PERCENTS = ("2.5", "0.0000000001", "30", "0", "-1", "3.3333333333", "100")


def tiers(chance: Random, kind: str) -> list[Row]:
    edges = sorted(chance.sample(EDGES, chance.randint(0, 4)), key=Decimal)
    return [
        {
            **({} if up_to is None else {"up_to": up_to}),
            "flat_amount": chance.choice(FLAT_AMOUNTS),
            **tier(chance, kind),
        }
        for up_to in (*edges, None)
    ]


def tier(chance: Random, kind: str) -> Row:
    if kind == "stairstep":
        return {}
    if kind == "graduated_percentage":
        return {"percent": chance.choice(PERCENTS)}
    made: Row = {"unit_price": chance.choice(UNIT_PRICES)}
    if chance.random() < 0.2:
        made["package_size"] = chance.choice(EDGES[1:])
    if chance.random() < 0.2:
        made["minimum"] = chance.choice(("0", "-1", "1.005"))
    if chance.random() < 0.2:
        made["maximum"] = chance.choice(("30", "1.005", "2"))
    return made


def metered_terms(chance: Random) -> Row:
    kind = chance.choice(METERED)
    made = {"type": kind, **before_the_price(chance)}
    if kind == "unit":
        return {**made, "unit_price": chance.choice(UNIT_PRICES)}
    if kind == "package":
        size, amount = chance.choice(EDGES[1:]), chance.choice(FLAT_AMOUNTS)
        return {**made, "package_size": size, "package_price": amount, "part": chance.choice(("up", "up", "down"))}
    return {**made, "tiers": tiers(chance, kind)}


def price(chance: Random, price_id: str) -> Row:
    if chance.random() < 0.2:
        return {
            "id": price_id,
            "type": "flat",
            "amount": chance.choice(("10", "49.99", "0.01", "100", "-7")),
            "when": chance.choice(("in_advance", "in_arrears")),
            "prorate": chance.choice((True, True, False)),
            **chance.choice(
                ({}, {}, PER_SEAT, {**PER_SEAT, "when_fewer": "period_end"}, {**PER_SEAT, "when_more": "period_end"})
            ),
            **chance.choice(({}, {}, {"trial_days": 10}, {"trial_days": 45})),
        }
    by = list(chance.choice(((), (), ("model",), ("region", "model"))))
    made = chance.choice((percentage_terms, matrix_terms, dynamic_terms, *[metered_terms] * 7))(chance)
    return {
        "id": price_id,
        "meter": SPEND if made["type"] == "percentage" else chance.choice(AGGREGATIONS),
        "where": {name: filter_on(chance) for name in chance.choice(((), (), ("model",), ATTRIBUTES))},
        "by": by,
        **({"sibling": "family"} if chance.random() < 0.3 else {}),
        **made,
        **over_groups(chance, made, by),
    }


def percentage_terms(chance: Random) -> Row:
    terms = {
        "fixed_amount": ("0.3", "0.005", "0"),
        "free_events": ("1", "1", "2", "3"),
        "free_units": ("0", "1", "10", "12.25", "100"),
        "event_minimum": ("0.5", "0.31"),
        "event_maximum": ("0.5", "2", "4"),
    }
    chosen = {name: chance.choice(values) for name, values in terms.items() if chance.random() < 0.6}
    if chance.random() < 0.3:
        # Nothing that asks for single events: such a price is rated by another statement.
        chosen = {"fixed_amount": chance.choice(terms["fixed_amount"])}
    return {"type": "percentage", "percent": chance.choice(PERCENTS), **chosen}


def matrix_terms(chance: Random) -> Row:
    attributes = list(chance.choice((("model",), ("region", "model"), ("model", "region"))))
    values = [[chance.choice(("a", "1", "A", "true", 'say "x"', "é")) for _ in attributes] for _ in range(4)]
    cells = [
        {"values": list(some), "unit_price": chance.choice(UNIT_PRICES)} for some in sorted(set(map(tuple, values)))
    ]
    return {
        "type": "matrix", "attributes": attributes, "cells": cells, "default_unit_price": chance.choice(UNIT_PRICES)
    }  # fmt: skip


def dynamic_terms(chance: Random) -> Row:
    return {
        "type": "dynamic",
        "price_attribute": "price",
        "carries": chance.choice(("unit_price", "amount")),
        "multiplier": chance.choice(("1", "1.15", "3", "0.000001", "2.50")),
        "default": chance.choice(("0", "0.125", "-2")),
    }


def filter_on(chance: Random) -> str | list[str]:
    return "any" if chance.random() < 0.2 else chance.sample(("a", "1", "A", "null", "true"), chance.randint(1, 3))


def before_the_price(chance: Random) -> Row:
    """Return how the quantity becomes what is priced: now and then converted, and with a part included."""
    made: Row = {}
    if chance.random() < 0.25:
        way = chance.choice(("divide", "multiply"))
        made["convert"] = {way: chance.choice(("3", "7", "1000", "0.000000003", "2.5", "999999999.999999999"))}
        rounding = chance.choice(("none", "ceil", "floor", "half_up"))
        made["convert"] |= {"round": rounding, **({} if rounding == "none" else {"places": chance.randint(0, 9)})}
    if chance.random() < 0.25:
        made["included"] = chance.choice((*EDGES, "5"))
    return made


def over_groups(chance: Random, made: Row, by: list[str]) -> Row:
    """Return what groups share, and whether each bucket of time is priced on its own."""
    found: Row = {}
    if made["type"] in METERED and chance.random() < 0.1:
        values = {value: chance.choice(("0", "1", "2.5", "0.333333333")) for value in ("a", "1", "true", "A")}
        found["weights"] = {"attribute": "model", "values": values, "default": chance.choice(("1", "0", "0.5"))}
    if by and "included" in made:
        found["included_per"] = chance.choice(("price", "group"))
    if by and "tiers" in made and chance.random() < 0.7:
        found["tiers_over"] = "all_groups"
    if made["type"] in METERED and "weights" not in found and chance.random() < 0.15:
        found["price_per"] = chance.choice(("hour", "day", "week", "month"))
    return found


def plan(chance: Random, name: str, prices: list[Row], version: int = 1) -> Row:
    every = chance.choice(("month", "month", "week", "day", "quarter", "year"))
    made: Row = {
        "name": name,
        "version": version,
        "currency": chance.choice(("USD", "JPY", "KWD")),
        "billing_period": {
            "every": every,
            "anchor": chance.choice(("calendar", "subscription", "2026-01-31", "2024-02-29")),
            "timezone": chance.choice(ZONES),
        },
        "prices": prices,
        **around(chance, [price["id"] for price in prices]),
    }
    made["billing_period"]["proration"] = chance.choice(("instants", "instants", *BASES[every in {"day", "week"} :]))
    return made


def scope(chance: Random, ids: list[str]) -> Row:
    """Return a few prices of a plan, or all of them."""
    return {"prices": chance.sample(ids, chance.randint(1, len(ids)))} if chance.random() < 0.6 else {}


def discount(chance: Random, one_id: str, ids: list[str]) -> Row:
    percent = chance.choice(("10", "25", "33.3333", "100", "0.0001"))
    amount = chance.choice(("5", "0.01", "20.005", "1000", "0.335"))
    return {
        "id": one_id,
        **({"percent": percent} if chance.random() < 0.6 else {"amount": amount}),
        **scope(chance, ids),
        **chance.choice(({}, {}, {}, {"periods": "once"}, {"periods": 3}, {"from": "2026-02-01", "to": "2026-04-01"})),
    }


def around(chance: Random, ids: list[str]) -> Row:
    """Return what stands around the prices of a plan: often nothing, sometimes all of it at once."""
    if not ids or chance.random() < 0.4:
        return {}
    amounts = ("0", "0.335", "7", "19.995", "100", "333.333333333333")
    floors = [{"id": f"least{at}", "amount": chance.choice(amounts), **scope(chance, ids)} for at in range(2)]
    caps = [{"id": f"most{at}", "amount": chance.choice(amounts), **scope(chance, ids)} for at in range(2)]
    promised = {
        "id": "promised",
        "amount": chance.choice(amounts),
        "overage_factor": chance.choice(("1", "1.5", "2.000001")),
    }
    commitments = [{**promised, "true_up": False, "prorate": chance.random() < 0.5, **scope(chance, ids)}]
    # A chance of its own: the worlds stay what they were.
    if Random(f"{commitments} of {ids} is shared").random() < 0.5:
        commitments[0]["share"] = "pro_rata"
    made: Row = {
        "discounts": [discount(chance, f"off{at}", ids) for at in range(chance.randint(0, 3))],
        "commitments": commitments[: chance.randint(0, 1)],
        # A cap below a minimum of the same prices is refused; plans have either caps or minimums, and sometimes both far apart.
        "maximums": [{**cap, "prorate": chance.random() < 0.3} for cap in caps],
        "minimums": [{**floor, "prorate": chance.random() < 0.7} for floor in floors],
    }
    chosen = chance.choice(("maximums", "minimums", "both"))
    if chosen == "both":
        made["maximums"] = [{**cap, "amount": str(Decimal(cap["amount"]) + 334)} for cap in made["maximums"]]
    elif chosen == "maximums":
        made["minimums"] = []
    else:
        made["maximums"] = []
    return made


def next_version(seed: int, number: int, prices: int) -> Row | None:
    """Return a second version of a plan, with other prices, for every other plan."""
    chance = Random(f"{seed} plan {number} again")
    if chance.random() < 0.5:
        return None
    few = range(min(prices, chance.randint(1, 3)))
    priced = [price(Random(f"{seed} price {number} {at} again"), f"p{number}-{at}-again") for at in few]
    return plan(chance, f"p{number}", priced, version=2)


def changes_of(chance: Random, start: str, *, has_next: bool) -> list[Row]:
    """Return changes of version and of seats, after the start and in their order."""
    begin = oracle.moment(start, "UTC") + timedelta(days=2)
    possible = [one for one in CHANGES if oracle.moment(one, "UTC") > begin]
    chosen = sorted(chance.sample(range(len(possible)), min(len(possible), chance.choice((0, 0, 1, 2, 3)))))
    changes = []
    for at in chosen:
        seats = {"quantities": {"seats": chance.choice(("0", "1", "2.5", "7"))}}
        version = {"version": chance.choice((1, 2))} if has_next else {}
        change = {"from": possible[at], **chance.choice((seats, version or seats, {**seats, **version}))}
        # A chance of its own: the worlds stay what they were. Units wait where their price says so.
        if "quantities" not in change and Random(f"{change} of {start} waits").random() < 0.4:
            change["takes_effect"] = "period_end"
        changes.append(change)
    return changes


def subscription(chance: Random, number: int, *, has_next: bool) -> Row:
    until, start = chance.choice(ENDS), chance.choice(STARTS)
    other = {"overrides": {f"p{number}-0": {"description": "special"}}} if chance.random() < 0.2 else {}
    return {
        "id": f"s{number}",
        # Sometimes one tenant is on two plans: each event is rated under both.
        "tenant": f"t{chance.choice((number, 0))}",
        "plan": f"p{number}",
        "version": 1,
        "from": start,
        **({} if until is None else {"until": until}),
        "discounts": [discount(chance, f"coupon{at}", [f"p{number}-0"]) for at in range(chance.choice((0, 0, 1, 2)))],
        "quantities": chance.choice(({}, {"seats": 3}, {"seats": "0.5"})),
        "changes": changes_of(chance, start, has_next=has_next),
        **other,
    }


def account_discounts(seed: int, plans: list[Row]) -> list[Row]:
    chance = Random(f"{seed} account")
    ids = [price["id"] for plan in plans for price in plan["prices"]]
    made = [discount(chance, f"deal{at}", ids) for at in range(chance.choice((0, 0, 1, 2)))]
    return [
        {
            **one,
            **({"currency": chance.choice(("USD", "JPY"))} if "amount" in one else {}),
            **({"plans": ["p0"]} if chance.random() < 0.3 else {}),
        }
        for one in made
    ]


def catalog(seed: int, plans: int, prices: int) -> Row:
    made = [
        plan(
            Random(f"{seed} plan {number}"),
            f"p{number}",
            [price(Random(f"{seed} price {number} {at}"), f"p{number}-{at}") for at in range(prices)],
        )
        for number in range(plans)
    ]
    later = [next_version(seed, number, prices) for number in range(plans)]
    subscribed = [
        subscription(Random(f"{seed} subscription {number}"), number, has_next=later[number] is not None)
        for number in range(plans)
    ]
    made += [one for one in later if one is not None]
    meters = [
        {"name": kind, "aggregation": kind, "attributes": [*ATTRIBUTES, "user", "price"], "negative_allowed": True}
        for kind in AGGREGATIONS
    ]
    meters[-1]["unique_attribute"] = "user"
    meters.append({"name": SPEND, "attributes": [*ATTRIBUTES, "user", "price"]})
    tenants = sorted({row["tenant"] for row in subscribed})
    accounts = [{"id": "payer", "name": "Payer", "tenants": tenants, "discounts": account_discounts(seed, made)}]
    return {"meters": meters, "plans": made, "accounts": accounts, "subscriptions": subscribed}


def edges_of(asked: Row, month: str) -> list[datetime]:
    """Return the instants at which anything rated begins or ends, as the oracle has them, and one inside each."""
    found = {datetime(2026, 3, 10, 12, tzinfo=UTC)}
    periods: dict[str, list[oracle.Period]] = {}
    for row, _, period in oracle.rated_periods(asked, month):
        periods.setdefault(row["id"], []).append(period)
    for some in periods.values():
        # Two of the thirty days of a daily plan are enough.
        for period in (some[0], some[-1]):
            found |= {period.start, period.end, period.service_start, period.service_end}
            found.add(period.service_start + (period.service_end - period.service_start) // 2)
    return sorted(found)


def meters_of(price: Row) -> list[str]:
    """Return the meters that a price looks at."""
    combined = [price["combine"]["meter"]] if "combine" in price else []
    return [*([price["meter"]] if "meter" in price else []), *price.get("meters", []), *combined]


def event(seed: int, number: int, asked: Row, instants: list[datetime]) -> Row:
    chance = Random(f"{seed} event {number}")
    meters = sorted({name for plan in asked["plans"] for row in plan["prices"] for name in meters_of(row)})
    use = {
        "tenant_id": chance.choice((*asked["accounts"][0]["tenants"] * 4, "stranger")),
        # Walking through events takes several of them, in one line.
        "meter": chance.choice((*meters * 4, "unpriced", *[SPEND] * 8 * (SPEND in meters))),
        "event_time": chance.choice(instants) + chance.choice((-1, 0, 0, 0, 1)) * MICROSECOND,
        "attributes": {name: chance.choice(VALUES) for name in (*ATTRIBUTES, "user") if chance.random() < 0.8}
        | {"price": chance.choice(CARRIED)},
    }
    if number and chance.random() < 0.3:
        # Two events of one instant and one group: only the order of recording tells which is the last.
        use = {name: event(seed, number - 1, asked, instants)[name] for name in use}
    return {
        **use,
        "quantity": chance.choice(QUANTITIES).removeprefix("-" if use["meter"] == SPEND else "+"),
        "recorded_at": datetime(2026, 1, 1, tzinfo=UTC) + chance.randint(0, 3) * MICROSECOND,
        "producer_id": chance.choice("xy"),
        "segment": chance.randint(0, 1),
        # The row makes an event unique; it need not follow the order in which events are listed.
        "row": chance.choice((number, 1000 - number)),
        "idempotency_key": chance.choice((None, None, None, "k", "l", "K")),
    }


def world_of(seed: int, plans: int, prices: int, events: int) -> World:
    chance = Random(f"{seed} world")
    made, months = catalog(seed, plans, prices), chance.sample(MONTHS, len(MONTHS))
    # Rather a month in which something ends; a yearly plan may have none.
    month = next((month for month in months if any(oracle.rated_periods(made, month))), months[0])
    # Few instants, so that several events meet in one span, and in one instant.
    edges = edges_of(made, month)
    instants = [chance.choice(edges) for _ in range(6)]
    return World(made, [event(seed, number, made, instants) for number in range(events)], month)


def seeds() -> st.SearchStrategy[int]:
    return st.integers(0, 2**32)


def worlds() -> st.SearchStrategy[World]:
    return st.builds(world_of, seeds(), st.integers(1, 3), st.integers(1, 8), st.integers(0, 40))


def prices_alone() -> st.SearchStrategy[list[Row]]:
    return st.builds(
        lambda seed, size: [metered_terms(Random(f"{seed} {at}")) for at in range(size)], seeds(), st.integers(5, 15)
    )
