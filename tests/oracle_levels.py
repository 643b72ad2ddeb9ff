"""The oracle of tiers over units that are held: one date after the other, each with the units of that date.

What enters: a graduated or volume price with `tiers_by: held`, the events of its line (those before the service period are
what history left), and the span as in tests/oracle_usage.py. What leaves: the exact amount. It shares no code with the
packages, and refuses nothing.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

from tests import oracle_dialect, oracle_prices, oracle_usage
from tests.oracle_usage import MICROSECOND, day

Row = dict[str, Any]


def held_amount(price: Row, events: list[Row], span: Row, plan: Row) -> Decimal:
    if price["type"] == "volume":
        at_the_end = max(Fraction(0), sum((oracle_usage.amount_of(event) for event in events), Fraction(0)))
        prorated = max(Fraction(0), oracle_usage.sum_by_day(events, span))
        return oracle_prices.decimal(oracle_prices.volume(price, at_the_end, prorated, True))
    follows, component = oracle_dialect.answer(plan, "held_flats"), oracle_prices.component_of(price)
    first, last = day(span["start"], span["zone"]), day(span["end"] - MICROSECOND, span["zone"])
    levels = [level_on(date, events, span) for date in range(first, last + 1)]
    if follows == "peak" and levels[-1] < 0:
        return Decimal(0)
    full, amount = oracle_usage.full_days(span), Fraction(0)
    lower_edges = oracle_prices.reads(price, "tier_edge", "lower")
    for number, (lower, upper, tier) in enumerate(oracle_prices.tiers_of(price)):
        unit_price, flat = (Fraction(tier.get(name, "0")) for name in ("unit_price", "flat_amount"))
        inside = [max(Fraction(0), (level if upper is None else min(level, upper)) - lower) for level in levels]
        in_it = [number == 0 or level > lower or (level == lower and lower_edges) for level in levels]
        due = [level > 0 or not oracle_prices.reads(price, "flat_at_zero", "waived") for level in levels]
        entered = sum(1 for both in zip(in_it, due, strict=True) if all(both))
        amount += component(to_21_places(sum(inside, Fraction(0)) * unit_price / full))
        if follows == "peak":
            amount += component(flat) if entered else 0
        else:
            amount += component(to_21_places(flat * entered / full))
    return oracle_prices.decimal(amount)


def level_on(date: int, events: list[Row], span: Row) -> Fraction:
    """Return the units that are held on a date: all that came on it or before, less what went."""
    start: datetime = span["start"]
    some = (event for event in events if day(max(event["event_time"], start), span["zone"]) <= date)
    return sum((oracle_usage.amount_of(event) for event in some), Fraction(0))


def to_21_places(value: Fraction) -> Fraction:
    return oracle_usage.half_away(value, 21)


def inside(events: list[Row], meter: Row, where: Row, span: Row) -> list[Row]:
    """Return the events of a meter that a filter lets through, of the period or carried into it."""
    return [
        event
        for event in events
        if event["meter"] == meter["name"] and event["event_time"] < span["end"]
        and oracle_usage.is_held(event, meter, span["start"]) and oracle_usage.is_wanted(event, listed(where))
    ]  # fmt: skip


def listed(where: Row) -> Row:
    return {name: some if some == "any" or isinstance(some, list) else [some] for name, some in where.items()}


def capacity(price: Row, meters: dict[str, Row], events: list[Row], span: Row) -> dict[Any, Any]:
    """Go up the tiers until all limits hold. Without an event, and with nothing carried, it costs nothing."""
    used = {name: inside(events, meters[name], price.get("where") or {}, span) for name in price["meters"]}
    reached = {name: oracle_usage.measured(some, meters[name], span) for name, some in used.items()}
    first = max(reached[price["meters"][0]], Fraction(0))
    shown = oracle_prices.decimal(first)
    counted = any(event["event_time"] >= span["start"] for some in used.values() for event in some)
    if not counted and all(quantity <= 0 for quantity in reached.values()):
        return {(): (shown, Decimal(0))}
    for tier in price["tiers"]:
        if all(reached[name] <= Fraction(str(limit)) for name, limit in tier.get("limits", {}).items()):
            amount = oracle_prices.component_of(price)(Fraction(tier["flat_amount"]))
            return {(): (shown, oracle_prices.decimal(amount))}
    raise ValueError("the last tier has limits")


def combined(price: Row, use: dict[Any, Any], other: Row, events: list[Row], span: Row) -> dict[Any, Any]:
    """Put the quantity of each group and cell together with that of the other meter; a sum is also where only that one is."""
    rule, by = price["combine"], price.get("by") or []
    theirs: dict[Any, dict[Any, list[Row]]] = {}
    for event in inside(events, other, rule.get("where") or {}, span):
        group = tuple(oracle_prices.attribute(event, name) for name in by)
        bucket = price.get("price_per")
        cell = oracle_usage.bucket_start(event["event_time"], bucket, span["zone"]) if bucket else ""
        theirs.setdefault(group, {}).setdefault(cell, []).append(event)
    found: dict[Any, Any] = {}
    for group, cells in use.items():
        found[group] = {}
        for cell, (members, quantity) in cells.items():
            with_it = theirs.get(group, {}).pop(cell, [])
            mine, of_other = Fraction(quantity), oracle_usage.measured(with_it, other, span)
            found[group][cell] = (members, oracle_prices.decimal(put_together(rule["by"], mine, of_other)))
    if rule["by"] == "add":
        for group, rest in theirs.items():
            for cell, some in rest.items():
                found.setdefault(group, {})[cell] = (
                    [], oracle_prices.decimal(oracle_usage.measured(some, other, span))
                )  # fmt: skip
    return found


def put_together(how: str, mine: Fraction, theirs: Fraction) -> Fraction:
    if how == "divide":
        return oracle_usage.half_away(mine / theirs, 9) if theirs > 0 else Fraction(0)
    if how == "multiply":
        return oracle_usage.half_away(mine * theirs, 9)
    return mine + theirs if how == "add" else mine - theirs


def included_share(price: Row, period: Any, plan: Row) -> str:
    """Return the share of the included units that a service period has, with nine places."""
    from tests import oracle_adjust

    share = oracle_adjust.share(oracle_adjust.Span({}, plan, period), period.service_start, period.service_end)
    return f"{oracle_prices.decimal(oracle_usage.half_away(Fraction(price['included']) * share, 9)):f}"


def of_largest(price: Row, use: dict[Any, Any]) -> dict[Any, Any]:
    """Price the group with the largest quantity alone; the others are shown, and cost nothing."""
    alone = {group: oracle_prices.lines(price, {group: cells}) for group, cells in use.items()}
    units = {group: left_of(price, found[group][0]) for group, found in alone.items()}
    ordered = sorted(use, key=lambda group: (-units[group], oracle_prices.group_text(price, group)))
    return {
        group: alone[group][group] if group == ordered[0] else (alone[group][group][0], Decimal(0)) for group in ordered
    }


def left_of(price: Row, quantity: Decimal) -> Fraction:
    return max(Fraction(0), Fraction(quantity) - Fraction(price.get("included", "0")))


def with_promises(price: Row, use: dict[Any, Any], found: dict[Any, Any], span: Row) -> dict[Any, Any]:
    """Go through the buckets of the service period: each promises the amount; beyond it, it is dearer."""
    rule, cells, component = price["bucket_commitment"], use.get((), {}), oracle_prices.component_of(price)
    # A promise is held against what the bucket costs exactly, whatever is rounded later.
    alone = {**price, "read": {**price["read"], "component": oracle_prices.exact}}
    promised, factor = Fraction(rule["amount"]), Fraction(rule.get("overage_factor", "1")) - 1
    quantity, amount = found.get((), (Decimal(0), Decimal(0)))
    more = owed = Fraction(0)
    for start in oracle_usage.bucket_starts(price["price_per"], span):
        spent = Fraction(0)
        if start in cells:
            spent = Fraction(oracle_prices.lines(alone, {(): {start: cells[start]}})[()][1])
        more += to_21_places(max(Fraction(0), spent - promised) * factor)
        owed += max(Fraction(0), promised - spent)
    due = component(owed) if rule.get("true_up", True) else 0
    total = oracle_prices.decimal(Fraction(amount) + component(more) + due)
    return {(): (quantity, total)} if cells or (owed and rule.get("true_up", True)) else {}


def unrounded(plan: Row) -> Row:
    """Return a plan that is the same, but leaves the components of its lines exact."""
    if oracle_dialect.answer(plan, "round_at") != "component":
        return plan
    return {**plan, "switches": {**(plan.get("switches") or {}), "round_at": "line"}}


def opened(plan: Row, subscription: Row, catalog: Row, period: Any) -> Row:
    """Return the plan of a period; prices whose tiers go on since the plan began know when that was."""
    from tests import oracle_adjust

    plans = {(one["name"], str(one["version"])): one for one in catalog["plans"]}
    began = [
        opens
        for _, opens, closes in oracle_adjust.phases(subscription, plans)
        if opens <= period.service_start < closes
    ]
    prices = [
        {**price, "opens": began[0]} if price.get("tiers_since") == "plan_start" else price for price in plan["prices"]
    ]
    return {**plan, "prices": prices}


def since_plan(price: Row, meters: dict[str, Row], events: list[Row], period: Any, plan: Row) -> dict[Any, Any]:
    """Price all use since the plan began, and take off what the use before this period was worth."""
    from tests.oracle import Period, unlimited_lines

    plain = {name: value for name, value in price.items() if name not in ("opens", "tiers_since")}
    others = {**plan, "prices": [plain if one["id"] == price["id"] else one for one in plan.get("prices", [])]}
    opens, starts, ends = price["opens"], period.service_start, period.service_end
    here = unlimited_lines(plain, meters, events, period, others)
    whole = unlimited_lines(plain, meters, events, Period(opens, ends, opens, ends), others)
    before = (
        unlimited_lines(plain, meters, events, Period(opens, starts, opens, starts), others) if opens < starts else {}
    )
    worth = {key: whole[key][1] - before[key][1] if key in before else whole[key][1] for key in here}
    return {key: (here[key][0], worth[key]) for key in here}


def base_of(price: Row, meters: dict[str, Row], events: list[Row], span: Any) -> Fraction:
    """Return what a price costs before discounts, exactly, all its lines together; 0 where nobody asks."""
    from tests import oracle, oracle_adjust

    if not any(price["id"] in other["prices"] for other in span.plan["prices"] if other["type"] == "percent_of"):
        return Fraction(0)
    if price["type"] == "flat":
        return oracle_adjust.flat(price, span)[1]
    lines = oracle.price_lines(price, meters, events, span.period, span.plan)
    return sum((Fraction(amount) for _, amount in lines.values()), Fraction(0))


def percent_of(price: Row, bases: dict[str, Fraction], period: Any, plan: Row) -> Fraction:
    """Return a percentage of what other prices cost, within limits; what these change is a component of its own."""
    base = sum((bases[name] for name in price["prices"]), Fraction(0))
    plain = to_21_places(base * Fraction(str(price["percent"])) / 100)
    limit = line_limit(price, oracle_prices.decimal(plain), period, plan) if price.get("line_limits") else 0
    return oracle_dialect.component(plan)(plain) + Fraction(limit)


def around_line(price: Row, amount: Decimal, period: Any, plan: Row) -> Decimal:
    """Return what percentages take off parts of a line's amount, and then what its limits add to the rest, or take off it."""
    left, changed, component = Fraction(amount), Fraction(0), oracle_dialect.component(plan)
    below = Fraction(0)
    for tier in price.get("amount_tiers") or []:
        until = Fraction(tier["up_to"]) if "up_to" in tier else None
        # The part of the amount that lies above the tiers before, and not above this one.
        inside = max(Fraction(0), (Fraction(amount) if until is None else min(Fraction(amount), until)) - below)
        off = to_21_places(inside * Fraction(tier["percent_off"]) / 100)
        left, changed, below = left - off, changed + component(-off), until or below
    if price.get("line_limits"):
        changed += Fraction(line_limit(price, oracle_prices.decimal(left), period, plan))
    return oracle_prices.decimal(changed)


def line_limit(price: Row, amount: Decimal, period: Any, plan: Row) -> Decimal:
    """Return what the limits of a line add to its amount, or take off it."""
    from tests import oracle_adjust

    rule, exact = price["line_limits"], Fraction(amount)
    least, most = rule.get("minimum"), rule.get("maximum")
    if least is not None:
        one = {"amount": least, "prorate": rule.get("prorate", False)}
        least = oracle_adjust.amount_of(one, oracle_adjust.Span({}, plan, period), prorate=False, is_owed=True)
    changed = oracle_prices.limited(exact, least, most) - exact
    return oracle_prices.decimal(oracle_dialect.component(plan)(changed))
