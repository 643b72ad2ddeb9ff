"""The prices of the oracle: from the quantities of a line to its amount, straight from the price rules, one type at a time.

What enters: a price as its catalog entry, and the use of one subscription in one period, group by group. What leaves: per
group (quantity, exact amount). All arithmetic is in `Fraction`, which is never rounded but where a rule says so. It shares
no code with the packages, and refuses nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any

Row = dict[str, Any]
Group = tuple[str | None, ...]
Cell = Any
# The use of one group: by cell (a bucket of time, a cell of a matrix, '' for the whole) the events and their quantity.
Use = dict[Cell, tuple[list[Row], Decimal]]
Lines = dict[Group, tuple[Decimal, Decimal]]

NOTHING = Fraction(0)
_EXACT = Context(prec=120)


def number(text: object) -> Fraction:
    return Fraction(str(text))


def decimal(value: Fraction) -> Decimal:
    return _EXACT.divide(Decimal(value.numerator), Decimal(value.denominator))


def rounded(value: Fraction, mode: str, places: int) -> Fraction:
    """Round a quantity, which is never below zero."""
    steps = value * 10**places
    up = {"ceil": math.ceil, "floor": math.floor}.get(mode, lambda exact: math.floor(exact + Fraction(1, 2)))
    return Fraction(up(steps), 10**places)


def converted(price: Row, q: Fraction) -> Fraction:
    """Change the unit once, for the whole period. Quantities have nine places."""
    rule = price.get("convert")
    if rule is None:
        return q
    q = q / number(rule["divide"]) if "divide" in rule else q * number(rule["multiply"])
    mode = rule.get("round", "none")
    return rounded(q, "half_up", 9) if mode == "none" else rounded(q, mode, int(rule.get("places", 0)))


def tiers_of(price: Row) -> list[tuple[Fraction, Fraction | None, Row]]:
    """Return (lower, upper, terms) of each tier; a tier covers (lower, upper]."""
    found, lower = [], NOTHING
    for tier in price["tiers"]:
        upper = None if tier.get("up_to") is None else number(tier["up_to"])
        found.append((lower, upper, tier))
        lower = lower if upper is None else upper
    return found


def exact(amount: Fraction) -> Fraction:
    """Return a component as it is; some plans round each of them (oracle_dialect.component)."""
    return amount


def component_of(price: Row) -> Callable[[Fraction], Fraction]:
    found: Callable[[Fraction], Fraction] = price.get("read", {}).get("component", exact)
    return found


def reads(price: Row, switch: str, value: str) -> bool:
    return bool(price.get("read", {}).get(switch) == value)


def unit_amount(terms: Row, q: Fraction, component: Callable[[Fraction], Fraction] = exact) -> Fraction:
    """Return what q units of a tier, or of the whole price, cost: per unit or per started package, within limits.

    What the limits change is a component of its own.
    """
    if q == 0:
        return NOTHING
    unit_price = number(terms["percent"]) / 100 if "percent" in terms else number(terms.get("unit_price", "0"))
    amount = unit_price * (math.ceil(q / number(terms["package_size"])) if "package_size" in terms else q)
    changed = limited(amount, terms.get("minimum"), terms.get("maximum")) - amount
    return component(amount) + component(changed)


def limited(amount: Fraction, minimum: object, maximum: object) -> Fraction:
    if minimum is not None and amount < number(minimum):
        return number(minimum)
    return number(maximum) if maximum is not None and amount > number(maximum) else amount


def graduated(price: Row, start: Fraction, q: Fraction, reached: Fraction, is_first: bool) -> Fraction:
    """Climb the tiers from `start` on by q units. Flat amounts: the first tier's to the first group, others on entering.

    With lower edges a tier is entered by reaching it; what all groups reach may owe no flat amount where it is zero.
    """
    amount, end, component = NOTHING, start + q, component_of(price)
    waived = reached == 0 and reads(price, "flat_at_zero", "waived")
    for position, (lower, upper, tier) in enumerate(tiers_of(price)):
        inside = (end if upper is None else min(end, upper)) - max(start, lower)
        if inside > 0:
            amount += unit_amount(tier, inside, component)
        entered = is_first if position == 0 else start <= lower < end
        if position and reads(price, "tier_edge", "lower"):
            entered = start < lower <= end or (is_first and lower == start)
        if entered and not waived:
            amount += component(number(tier.get("flat_amount", "0")))
    return amount


def volume(price: Row, reached: Fraction, q: Fraction, is_first: bool) -> Fraction:
    """Price q units in the one tier that holds `reached`. Between bounds in whole numbers there may be none."""
    component, lower_edges = component_of(price), reads(price, "tier_edge", "lower")
    for position, (lower, upper, tier) in enumerate(tiers_of(price)):
        if upper is not None and (reached >= upper if lower_edges else reached > upper):
            continue
        if reads(price, "tier_gap", "lost"):
            beyond = upper is not None and reached > upper - 1
            before = position > 0 and reached < lower + 1
            if beyond if lower_edges else before:
                return NOTHING
        waived = reached == 0 and q == 0 and reads(price, "flat_at_zero", "waived")
        flat = component(number(tier.get("flat_amount", "0"))) if is_first and not waived else NOTHING
        return unit_amount(tier, q, component) + flat
    raise ValueError("the last tier is not open")


def package(price: Row, q: Fraction) -> Fraction:
    """A started package is whole, or, by `part: down`, nothing."""
    packages = q / number(price["package_size"])
    whole = (math.floor if price.get("part") == "down" else math.ceil)(packages)
    return component_of(price)(number(price["package_price"]) * whole)


def percentage(price: Row, events: list[Row], q: Fraction) -> Fraction:
    """Walk through the events in order. Without anything free and without limits the sum says it all."""
    share, fixed = number(price["percent"]) / 100, number(price.get("fixed_amount", "0"))
    limits = price.get("event_minimum"), price.get("event_maximum")
    free_events, free_units = price.get("free_events"), price.get("free_units")
    component, edge_pays = component_of(price), reads(price, "allowance_edge", "fixed_due")
    if (free_events, free_units, *limits) == (None,) * 4:
        return component(share * q) + component(fixed * len(events))
    is_open = free_events is not None or free_units is not None
    events_left = math.inf if free_events is None else int(free_events)
    units_left = None if free_units is None else number(free_units)
    by_value, by_event, by_limit = NOTHING, NOTHING, NOTHING
    for event in sorted(events, key=order):
        value = number(event["quantity"])
        is_open = is_open and events_left >= 1
        if is_open and (units_left is None or value <= units_left):
            events_left -= 1
            units_left = None if units_left is None else units_left - value
            if not (edge_pays and units_left == 0):
                continue
            # Its units are free, and the rest is paid.
            value = NOTHING
            by_event += fixed
            by_limit += limited(fixed, *limits) - fixed
            continue
        if is_open and units_left is not None:
            value -= units_left
            is_open = False
        by_value += share * value
        by_event += fixed
        by_limit += limited(share * value + fixed, *limits) - share * value - fixed
    return component(by_value) + component(by_event) + component(by_limit)


def order(event: Row) -> tuple[Any, ...]:
    return event["event_time"], event["recorded_at"], event["producer_id"], event["segment"], event["row"]


def of_its_group(price: Row, group: Group) -> Row:
    """Return the price as it is for one group: its tiers may name what a unit of the group costs."""
    if not any("unit_prices" in tier for tier in price.get("tiers", [])):
        return price
    own = [
        {**tier, "unit_price": tier.get("unit_prices", {}).get(group[0], tier["unit_price"])} for tier in price["tiers"]
    ]
    return {**price, "tiers": own}


def amount_of(price: Row, q: Fraction, start: Fraction, reached: Fraction, is_first: bool) -> Fraction:
    """Return what q units cost. `start` and `reached` are its place in the tiers."""
    if price["type"] in ("graduated", "graduated_percentage"):
        return graduated(price, start, q, reached, is_first)
    if price["type"] in ("volume", "stairstep"):
        return volume(price, reached, q, is_first)
    return package(price, q) if price["type"] == "package" else unit_amount(price, q, component_of(price))


def metered_amount(price: Row, q: Decimal) -> Decimal:
    """Return the exact amount of a quantity under a price, for a line with one group."""
    return lines(price, {(): {"": ([], q)}})[()][1]


def group_text(price: Row, group: Group) -> bytes:
    """Return what groups are ordered by: their keys as JSON, names in alphabetical order."""
    named = dict(sorted(zip(price.get("by") or [], group, strict=True)))
    return json.dumps(named, separators=(",", ":"), ensure_ascii=False).encode()


def lines(price: Row, use: dict[Group, Use]) -> Lines:
    """Return (quantity, exact amount) per group of a metered price."""
    groups = sorted(use, key=lambda group: group_text(price, group)) if price.get("by") else list(use)
    found = dict.fromkeys(groups, (NOTHING, NOTHING))
    free = {group: pooled(price, use[group]) for group in groups} if "pool" in price else {}
    for cell in {cell: None for group in groups for cell in use[group]}:
        here = [group for group in groups if cell in use[group]]
        if price["type"] in ("matrix", "dynamic"):
            priced = {
                group: in_cell_of_its_own(price, cell, *use[group][cell], free.get(group, {}).get(cell, NOTHING))
                for group in here
            }
            for group, (quantity, amount) in priced.items():
                found[group] = (found[group][0] + quantity, found[group][1] + amount)
            continue
        for group, (quantity, amount) in in_one_cell(price, {group: use[group][cell] for group in here}).items():
            found[group] = (found[group][0] + quantity, found[group][1] + amount)
    return {group: (decimal(quantity), decimal(amount)) for group, (quantity, amount) in found.items()}


def cell_price(price: Row, cell: Cell) -> Fraction:
    prices = {tuple(one["values"]): one["unit_price"] for one in price["cells"]}
    return number(prices.get(cell, price.get("default_unit_price")))


def pooled(price: Row, cells: Use) -> dict[Cell, Fraction]:
    """Return the units of each cell that the pool of a matrix takes: of the cheapest first, of the dearest, or of all alike."""
    if price["pool_order"] == "pro_rata":
        return in_proportion(number(price["pool"]), cells, lambda cell: cell_text(price, cell))
    left, sign = number(price["pool"]), -1 if price["pool_order"] == "dearest" else 1
    taken = {}
    for cell in sorted(cells, key=lambda one: (sign * cell_price(price, one), cell_text(price, one))):
        taken[cell] = min(left, max(NOTHING, Fraction(cells[cell][1])))
        left -= taken[cell]
    return taken


def in_proportion(pool: Fraction, cells: Use, key: Callable[[Cell], bytes]) -> dict[Cell, Fraction]:
    """Share a pool by what is used: cut to billionths, and the billionths left go to those that lost most, then by key."""
    used = {cell: max(NOTHING, Fraction(quantity)) for cell, (_, quantity) in cells.items()}
    total = sum(used.values(), NOTHING)
    if total <= pool:
        return used
    wanted = {cell: pool * q / total for cell, q in used.items()}
    shares = {cell: rounded(share, "floor", 9) for cell, share in wanted.items()}
    billionth = Fraction(1, 10**9)
    lost = sorted(used, key=lambda cell: (shares[cell] - wanted[cell], key(cell)))
    for cell in lost[: int((pool - sum(shares.values(), NOTHING)) / billionth)]:
        shares[cell] += billionth
    return shares


def cell_text(price: Row, cell: Cell) -> bytes:
    """Return what cells of one price are ordered by: their values as JSON, names in alphabetical order."""
    named = dict(sorted(zip(price["attributes"], cell, strict=True)))
    return json.dumps(named, separators=(",", ":"), ensure_ascii=False).encode()


def in_cell_of_its_own(
    price: Row, cell: Cell, events: list[Row], quantity: Decimal, free: Fraction = NOTHING
) -> tuple[Fraction, Fraction]:
    """Price a cell of a matrix, or the events that carry one price."""
    q = max(NOTHING, Fraction(quantity))
    if price["type"] == "matrix":
        return q, NOTHING if q == free else component_of(price)((q - free) * cell_price(price, cell))
    places = 12 - max(0, -int(Decimal(price.get("multiplier", "1")).normalize().as_tuple().exponent))
    carried = (
        cell[0] if re.fullmatch(rf"-?[0-9]{{1,12}}(\.[0-9]{{1,{places}}})?", cell[0] or "") else price.get("default")
    )
    if carried is None and q == 0 and price.get("carries") != "amount":
        return q, NOTHING
    unit_price = number(carried) * number(price.get("multiplier", "1"))
    return q, component_of(price)(unit_price * (len(events) if price.get("carries") == "amount" else q))


def in_one_cell(price: Row, use: dict[Group, tuple[list[Row], Decimal]]) -> dict[Group, tuple[Fraction, Fraction]]:
    """Convert, take off what is included, price: for the groups of one cell, in the order of their keys."""
    pool = included = number(price.get("included", "0"))
    left: dict[Group, tuple[Fraction, Fraction]] = {}
    for group, (events, measured) in use.items():
        quantity = max(measured, Decimal(0))
        if price["type"] == "percentage":
            left[group] = (Fraction(quantity), percentage(price, events, Fraction(quantity)))
            continue
        q = converted(price, Fraction(quantity))
        free = min(q, included if price.get("included_per") == "group" else pool)
        pool -= free if price.get("included_per") != "group" else 0
        left[group] = (q, q - free)
    if price["type"] == "percentage":
        return left
    of_all = price.get("tiers_over") == "all_groups"
    total = sum((q for _, q in left.values()), NOTHING)
    ends = number(price["ends"]) if "ends" in price else None
    found, before = {}, NOTHING
    for position, (group, (q, charged)) in enumerate(left.items()):
        start, reached = (before, total) if of_all else (NOTHING, charged)
        within = charged
        if ends is not None:
            # Beyond the end nothing is priced.
            within, reached = max(NOTHING, min(start + charged, ends) - start), min(reached, ends)
        found[group] = (q, amount_of(of_its_group(price, group), within, start, reached, not of_all or position == 0))
        before += charged
    return found


def takes(price: Row, rivals: list[Row], event: Row) -> bool:
    """Return whether the price takes the event: its filters match, and no sibling on the same meter is more particular."""
    from tests.oracle_usage import is_taken

    asked = [
        {
            "id": one["id"],
            "sibling": one.get("sibling"),
            "meter": {"name": one["meter"]},
            "where": {
                name: allowed if allowed == "any" or isinstance(allowed, list) else [allowed]
                for name, allowed in (one.get("where") or {}).items()
            },
        }
        for one in rivals
    ]
    return is_taken(event, next(one for one in asked if one["id"] == price["id"]), asked)


def has_cells(price: Row) -> bool:
    """Return whether a line has a row only for what has an event: a bucket of time, a cell, a carried price."""
    return price.get("price_per") is not None or price["type"] in ("matrix", "dynamic")


def rows_of(price: Row, cells: Use, meter: Row, span: Row) -> Use:
    """Return the cells that are rows, where a meter carries something: a line without groups and cells always is one."""
    from tests.oracle_usage import has_row

    if not price.get("by") and not has_cells(price):
        return cells
    if price.get("weights"):
        parts = split(cells[""][0], lambda event: attribute(event, price["weights"]["attribute"]))
        return cells if any(has_row(members, meter, span) for members in parts.values()) else {}
    return {cell: row for cell, row in cells.items() if has_row(row[0], meter, span)}


def weighted(price: Row, events: list[Row], measure: Callable[[list[Row]], Decimal]) -> Decimal:
    """Count each unit by the weight of its value; round the sum once, half away from zero, to nine places."""
    rule, total = price["weights"], NOTHING
    for value, members in split(events, lambda event: attribute(event, rule["attribute"])).items():
        total += Fraction(measure(members)) * number(rule["values"].get(value, rule.get("default")))
    size = rounded(abs(total), "half_up", 9)
    return decimal(size if total >= 0 else -size)


def attribute(event: Row, name: str) -> str | None:
    value = event["attributes"].get(name)
    return str(value).lower() if isinstance(value, bool) else None if value is None else str(value)


def split(events: list[Row], key: Callable[[Row], Cell]) -> dict[Cell, list[Row]]:
    parts: dict[Cell, list[Row]] = {}
    for event in events:
        parts.setdefault(key(event), []).append(event)
    return parts


def by_cell(price: Row, events: list[Row], measure: Callable[[list[Row]], Decimal], zone: str) -> Use:
    """Return the use of one group: whole, or split by what the price is priced per."""
    from tests.oracle_usage import bucket_start

    if price.get("weights"):
        return {"": (events, weighted(price, events, measure))}
    names = price["attributes"] if price["type"] == "matrix" else [price.get("price_attribute")]
    if price["type"] in ("matrix", "dynamic"):
        cells = split(events, lambda event: tuple(attribute(event, name) for name in names))
    elif price.get("price_per"):
        cells = split(events, lambda event: bucket_start(event["event_time"], price["price_per"], zone))
    else:
        return {"": (events, measure(events))}
    return {cell: (members, measure(members)) for cell, members in cells.items()}
