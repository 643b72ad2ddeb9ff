"""The prices of `peers.jsonl`: what a quantity, or single events, are worth under one price or under several.

Amounts of prices are exact there. `bound` says which tier an edge belongs to; ours belong to the tier that ends there. A
table whose last tier ends is read with an open tier above it as long as the quantity lies within the table; the plan
checker refuses it as it stands. What an earlier invoice `billed` was booked before, under other terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

from rating.errors import UsageUnpriced
from tests.conformance import ask, peers_books
from tests.conformance.cases import Answer, Asked, Unsupported
from tests.conformance.peers_books import START, Books, flat, one_each, sold, total

REFUSED = {"error": "refused"}
# As many units as a quantity can hold: an allowance without a limit.
UNLIMITED = "9" * 29


def _unit(asked: Asked) -> dict[str, Any]:
    return ask.price(type="unit", unit_price=str(asked("unit")))


def _tier(row: Asked, kind: str) -> dict[str, Any]:
    if kind == "stairstep":
        # A step has an amount and no price per unit; one that is not zero would be another type.
        if Decimal(str(row("unit", "0"))):
            raise Unsupported("unit price of a stairstep")
        return ask.tier(row("up_to"), None, row("flat", "0"))
    cap = row("cap")
    return {
        **ask.tier(row("up_to"), row("unit"), row("flat")),
        **({} if cap is None else {"maximum": str(cap)}),
    }


def _tiered(asked: Asked) -> dict[str, Any]:
    kind = asked("mode", "graduated")
    if kind not in {"graduated", "volume", "stairstep"}:
        raise Unsupported(f"mode {kind}")
    return ask.price(type=kind, tiers=[_tier(row, kind) for row in asked.rows("tiers")])


def _package(asked: Asked) -> dict[str, Any]:
    free = asked("free", "0")
    return ask.price(
        type="package",
        package_size=str(asked("size")),
        package_price=str(asked("price")),
        part=asked("round", "up"),
        **({"included": str(free)} if Decimal(str(free)) else {}),
    )


PRICES = {"unit": _unit, "tiers": _tiered, "package": _package}


def terms_of(asked: Asked) -> dict[str, Any]:
    if asked("op") not in PRICES:
        raise Unsupported(f"sum_of {asked('op')}")
    return PRICES[asked("op")](asked)


def closed(terms: dict[str, Any], quantity: Decimal) -> dict[str, Any]:
    """Return the terms with an open tier above a table that ends, if the quantity lies within the table."""
    last = terms["tiers"][-1].get("up_to") if "tiers" in terms else None
    if last is None or quantity > Decimal(last):
        return terms
    return {**terms, "tiers": [*terms["tiers"], {"flat_amount": "0"}]}


def priced(asked: Asked) -> dict[str, Any]:
    """The exact amount, or a refusal where the terms leave the quantity without a price."""
    terms = PRICES[asked("op")](asked)
    # In these systems zero usage costs nothing, and some read the edges of tiers the other way.
    switches = {"flat_at_zero": "waived"}
    if asked("bound") == "lower_inclusive":
        switches["tier_edge"] = "lower"
    return _worth(terms, asked("quantity"), switches)


def _worth(terms: dict[str, Any], quantity: object, switches: Mapping[str, str] | None = None) -> dict[str, Any]:
    try:
        return {"amount": ask.worth(closed(terms, Decimal(str(quantity))), quantity, switches=switches).exact_amount}
    except ask.Refused:
        return REFUSED


def sum_of(asked: Asked) -> dict[str, Any]:
    """One price that starts again for every quantity: once as groups of one period, once as its days. Both are asked."""
    inner = asked.inner("price")
    terms = terms_of(inner)
    if inner("bound", "upper_inclusive") != "upper_inclusive":
        raise Unsupported("lower edges of groups")
    quantities = [Decimal(str(quantity)) for quantity in asked("quantities", [])]
    terms = closed(terms, max(quantities, default=Decimal(0)))
    # A group or a day without use has no event, and so no line.
    days = [ask.event(q, START + timedelta(days=n), n, group=str(n)) for n, q in enumerate(quantities) if q]
    try:
        by_day = peers_books.worth_of_events({**terms, "price_per": "day"}, days)
        by_group = peers_books.worth_of_events({**terms, "by": ["group"]}, days)
    except ask.Refused:
        return REFUSED
    return {"amount": by_day} if by_day == by_group else {"by_day": by_day, "by_group": by_group}


def tiered_package(asked: Asked) -> dict[str, Any]:
    """Tiers in units, prices per package; a started package is whole."""
    size = str(asked("size"))
    tiers = [{**ask.tier(row("up_to"), row("unit"), None), "package_size": size} for row in asked.rows("tiers")]
    return _worth(ask.price(type="graduated", tiers=tiers), asked("quantity"))


def largest_group(asked: Asked) -> dict[str, Any]:
    """Tiers in packages over the group with the most units; the others cost nothing."""
    size = str(asked("size"))
    tiers = [{**ask.tier(row("up_to"), row("unit"), None), "package_size": size} for row in asked.rows("tiers")]
    groups = asked("groups", {})
    terms = ask.price(type="graduated", tiers=tiers, by=["group"], groups_priced="largest")
    events = [ask.event(quantity, row=row, group=name) for row, (name, quantity) in enumerate(groups.items())]
    try:
        most = max((Decimal(str(quantity)) for quantity in groups.values()), default=Decimal(0))
        return {"amount": peers_books.worth_of_events(closed(terms, most), events)}
    except ask.Refused:
        return REFUSED


def grouped_allocation(asked: Asked) -> dict[str, Any]:
    """Included units that each group has of its own."""
    terms = {**_unit(asked), "by": ["group"], "included": str(asked("allocation")), "included_per": "group"}
    events = [ask.event(quantity, row=row, group=str(row)) for row, quantity in enumerate(asked("groups", []))]
    return {"amount": peers_books.worth_of_events(terms, events)}


def grouped_tiered_matrix(asked: Asked) -> dict[str, Any]:
    """Values of an attribute that have tiers of their own, and a unit price for all others: prices that are siblings."""
    prices = [
        one_each(value, type="graduated", sibling="values", tiers=[ask.tier(r["up_to"], r["unit"], None) for r in rows])
        for value, rows in asked("tiers", {}).items()
    ]
    others = {**ask.price(type="unit", unit_price=str(asked("default"))), "id": "all others", "sibling": "values"}
    usage = asked("usage", {}).items()
    events = [ask.event(quantity, row=row, price=value) for row, (value, quantity) in enumerate(usage)]
    return {"amount": total(Books().book(sold([*prices, others]), events))}


def allowance(asked: Asked) -> dict[str, Any]:
    """Included units, and a base amount that is a flat price beside the metered one."""
    metered = {**_unit(asked), "included": str(asked("included", "0"))}
    lines = Books().book(sold([flat("base", asked("base", "0")), metered]), [ask.event(asked("quantity"))])
    return {"amount": total(lines)}


def metered_allowance(asked: Asked) -> dict[str, Any]:
    """What is allowed is measured too: it takes quantity away from the meter, which is never rated below zero."""
    events = [ask.event(asked("consumption")), ask.event(f"-{asked('allowance', '0')}", row=1)]
    events = [event for event in events if Decimal(event["quantity"])]
    return {"amount": total(Books().book(sold([_unit(asked)]), events))}


def entitlement(asked: Asked) -> dict[str, Any]:
    """A quota used as an allowance: what is in it costs nothing. Without the feature, or switched off, nothing is free."""
    has, enabled, limit = asked("has"), asked("enabled"), asked("limit")
    terms = _unit(asked)
    if has and enabled:
        terms["included"] = UNLIMITED if limit is None else str(limit)
    return _worth(terms, asked("quantity"))


def basis_points(asked: Asked) -> dict[str, Any]:
    """Hundredths of a percent of money: per event with a cap, or by tiers of the period's sum."""
    mode = asked("mode")
    if mode == "flat":
        cap = asked("cap")
        limit = {} if cap is None else {"event_maximum": str(cap)}
        terms = ask.price(type="percentage", percent=_percent(asked("bps")), **limit)
    elif mode == "bulk":
        rows = asked.rows("tiers")
        tiers = [ask.tier(row("up_to"), Decimal(str(row("bps"))).scaleb(-4), None) for row in rows]
        terms = ask.price(type="volume", tiers=tiers)
    elif mode == "tiered":
        rows = asked.rows("tiers")
        tiers = [{**ask.tier(row("up_to"), None, None), "percent": _percent(row("bps"))} for row in rows]
        terms = ask.price(type="graduated_percentage", tiers=tiers)
    else:
        raise Unsupported(f"bps {mode}")
    events = [ask.event(value, START + timedelta(seconds=row), row) for row, value in enumerate(asked("events", []))]
    return {"amount": peers_books.worth_of_events(terms, events)}


def _percent(basis_points: object) -> str:
    return format(Decimal(str(basis_points)).scaleb(-2), "f")


def threshold_discount(asked: Asked) -> dict[str, Any]:
    """So many percent off up to a sum of money, and so many off what is above it."""
    below, above = str(asked("below", "0")), str(asked("above", "0"))
    tiers = [{"up_to": str(asked("threshold")), "percent_off": below}, {"percent_off": above}]
    return _worth(ask.price(type="unit", unit_price="1", amount_tiers=tiers), asked("spend"))


def percent(asked: Asked) -> dict[str, Any]:
    """A percentage of money, at least and at most so much per period."""
    terms = ask.price(type="percentage", percent=str(asked("percent")))
    limits = {
        f"{name}imums": [{"id": f"{name}imum", "amount": str(asked(name))}]
        for name in ("min", "max")
        if asked(name) is not None
    }
    try:
        catalog = sold([terms], switches={"min_max_order": "minimum_first"}, **limits)
        return {"amount": total(Books().book(catalog, [ask.event(asked("base"))]))}
    except ask.Refused:
        return REFUSED


def matrix(asked: Asked) -> dict[str, Any]:
    """A unit price per combination of values; what no cell names has the default, and is refused without one."""
    cells, usage, default = asked("cells", {}), asked("usage", {}), asked("default")
    names = [f"attribute_{at}" for at in range(max(len(key.split("|")) for key in [*cells, *usage]))]
    terms = ask.price(
        type="matrix",
        attributes=names,
        cells=[{"values": key.split("|"), "unit_price": str(price)} for key, price in cells.items()],
        **({} if default is None else {"default_unit_price": str(default)}),
    )
    events = [
        ask.event(quantity, row=row, **dict(zip(names, key.split("|"), strict=True)))
        for row, (key, quantity) in enumerate(usage.items())
    ]
    return _unless_unpriced(terms, events)


def carried_by_events(asked: Asked) -> dict[str, Any]:
    """Unit prices that the events carry, with a default for those that carry none."""
    default = asked("default")
    terms = ask.price(type="dynamic", price_attribute="unit_price", **({} if default is None else {"default": default}))
    events = [
        ask.event(quantity, row=row, **({} if carried is None else {"unit_price": str(carried)}))
        for row, (quantity, carried) in enumerate(asked("events", []))
    ]
    return _unless_unpriced(terms, events)


def _unless_unpriced(terms: dict[str, Any], events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    try:
        return {"amount": peers_books.worth_of_events(terms, events)}
    except UsageUnpriced:
        return REFUSED


def consumable(asked: Asked) -> dict[str, Any]:
    """Blocks of units inside tiers, of several units at once: each tier's own blocks, or all in the tier reached.

    Beyond the last tier the one policy loses what is left, and the other extends the tier.
    """
    kind, past_end = {"ALL_TIERS": ("graduated", "lose"), "TOP_TIER": ("volume", "extend")}[asked("policy")]
    prices, events = [], []
    for number, row in enumerate(asked.rows("units")):
        quantity, name = Decimal(str(row("quantity"))), f"unit-{number}"
        prices.append(one_each(name, type=kind, tiers=_blocks(row.rows("tiers"))))
        events += [ask.event(quantity, row=number, price=name)] if quantity else []
    return _beside_and_after(asked, prices, events, switches={"tiers_past_end": past_end})


def _blocks(rows: Sequence[Asked]) -> list[dict[str, Any]]:
    """Return tiers of so many blocks each as tiers that end at so many units."""
    tiers, end = [], Decimal(0)
    for row in rows:
        size, blocks = Decimal(str(row("size"))), Decimal(str(row("max_blocks")))
        end += size * blocks
        up_to = None if blocks < 0 else format(end, "f")
        tiers.append({**ask.tier(up_to, row("price"), None), "package_size": str(size)})
    return tiers


def capacity(asked: Asked) -> dict[str, Any]:
    """The amount of the first tier that holds the peaks of all units; without use nothing is due."""
    series = {unit: [value] for unit, value in asked("usage", {}).items()} or asked("series", {})
    tiers, last = [], {}
    for row in asked.rows("tiers"):
        last = {unit: limit for unit, limit in row("limits", {}).items() if Decimal(limit) >= 0}
        tiers.append({"limits": last, "flat_amount": str(row("price"))})
    units = list(dict.fromkeys([*series, *(unit for tier in tiers for unit in tier["limits"])]))
    beyond = [unit for unit, limit in last.items() if max(map(Decimal, series.get(unit, ["0"]))) > Decimal(limit)]
    if last and not beyond:
        # What lies within the table never reaches a tier above it.
        tiers.append({"flat_amount": "0"})
    events = [
        {**ask.event(value, row=row), "meter": unit}
        for unit, values in series.items() for row, value in enumerate(values) if Decimal(value)
    ]  # fmt: skip
    terms = {"id": "capacity", "type": "capacity", "meters": units, "tiers": tiers}
    meters = [{"name": unit, "aggregation": "max"} for unit in units]
    return _beside_and_after(asked, [terms], events, meters)


def _beside_and_after(
    asked: Asked,
    prices: Sequence[Mapping[str, Any]],
    events: list[dict[str, Any]],
    meters: Sequence[Any] = (),
    **plan: Any,
) -> dict[str, Any]:
    """Book what was `billed` (by a price that was another then), then what the prices and a flat `base` are worth now."""
    books, billed = Books(), Decimal(str(asked("billed", "0")))
    first = str(prices[0]["id"])
    try:
        if billed:
            books.book(sold([one_each(first)]), [ask.event(billed, price=first)])
        catalog = sold([flat("base", asked("base", "0")), *prices], **plan)
        catalog["meters"] += meters
        return {"amount": total(books.book(catalog, events))}
    except (ask.Refused, UsageUnpriced):
        return REFUSED


ANSWERS: dict[str, Answer] = {
    "unit": priced,
    "tiers": priced,
    "package": priced,
    "sum_of": sum_of,
    "tiered_package": tiered_package,
    "max_group_tiered_package": largest_group,
    "grouped_allocation": grouped_allocation,
    "grouped_tiered_matrix": grouped_tiered_matrix,
    "allowance": allowance,
    "metered_allowance": metered_allowance,
    "entitlement": entitlement,
    "bps": basis_points,
    "threshold_discount": threshold_discount,
    "percent": percent,
    "matrix": matrix,
    "event_output": carried_by_events,
    "kb_consumable": consumable,
    "kb_capacity": capacity,
    "kb_capacity_peak": capacity,
}
