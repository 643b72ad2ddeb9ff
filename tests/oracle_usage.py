"""The slow, obvious aggregation: events to quantities, one event at a time. It shares no code with the packages.

What enters: usage events as in tests/oracle.py; a span as a dict (tenant, start, end, period_start, period_end, zone); selectors
as dicts (id, meter as its catalog entry, where, by, cell_by, bucket, sibling). What leaves: per (selector, group, cell)
the number of events and the exact quantity. Every rule is written straight from section 1 of the price rules.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

from tests.oracle import attribute, instant, order

Row = dict[str, Any]
Key = tuple[str, tuple[str | None, ...], Any]
Rows = dict[Key, tuple[int, Fraction]]
MICROSECOND = timedelta(microseconds=1)
SECONDS = {"second": 1, "hour": 3600, "day": 86400}
STRETCHES = {"30s": 30, "5m": 300, "1h": 3600, "7h": 7 * 3600}


def half_away(value: Fraction, places: int) -> Fraction:
    """Round half away from zero: floor of the size plus a half."""
    size = math.floor(abs(value) * Fraction(10) ** places + Fraction(1, 2)) / Fraction(10) ** places
    return size if value >= 0 else -size


def rounded(value: Fraction, rule: Row | None) -> Fraction:
    if rule is None:
        return value
    step = Fraction(10) ** int(rule.get("places", 0))
    if rule["mode"] == "round":
        return half_away(value, int(rule.get("places", 0)))
    return (math.ceil if rule["mode"] == "ceil" else math.floor)(value * step) / step


def amount_of(event: Row) -> Fraction:
    return Fraction(event["quantity"])


def is_wanted(event: Row, where: Row) -> bool:
    for name, allowed in where.items():
        value = attribute(event, name)
        if value is None or (allowed != "any" and value not in allowed):
            return False
    return True


def owner(event: Row, siblings: list[Row]) -> str | None:
    """Return the id of the one sibling that takes the event: most attributes, then most listed values, then the first."""
    best: tuple[tuple[int, int, int], str] | None = None
    for position, selector in enumerate(siblings):
        where = selector["where"]
        if is_wanted(event, where):
            anys = sum(1 for allowed in where.values() if allowed == "any")
            rank = (-len(where), anys, position)
            if best is None or rank < best[0]:
                best = (rank, selector["id"])
    return None if best is None else best[1]


def is_taken(event: Row, selector: Row, selectors: list[Row]) -> bool:
    if selector.get("sibling") is None:
        return is_wanted(event, selector["where"])
    siblings = [
        other
        for other in selectors
        if other.get("sibling") == selector["sibling"] and other["meter"]["name"] == selector["meter"]["name"]
    ]
    return owner(event, siblings) == selector["id"]


def bucket_start(when: datetime, unit: str, zone: str) -> datetime:
    """Return where the hour, day, week or month of an instant begins: go back a minute at a time, or by the calendar."""
    tz = ZoneInfo(zone)
    if unit == "hour":
        at = when.astimezone(UTC).replace(second=0, microsecond=0)
        while at.astimezone(tz).minute:
            at -= timedelta(minutes=1)
        return at
    wall = when.astimezone(tz).replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0)
    if unit == "week":
        wall -= timedelta(days=wall.weekday())
    if unit == "month":
        wall = wall.replace(day=1)
    return instant(wall, zone)


def bucket_of(when: datetime, length: str, span: Row) -> datetime:
    if length in STRETCHES:
        width = timedelta(seconds=STRETCHES[length])
        start: datetime = span["start"]
        return start + (when - start) // width * width
    return bucket_start(when, length, span["zone"])


def buckets_in(length: str, span: Row) -> int:
    """Count the buckets that the service period touches."""
    if length in STRETCHES:
        return -((span["start"] - span["end"]) // timedelta(seconds=STRETCHES[length]))
    return len(bucket_starts(length, span))


def bucket_starts(length: str, span: Row) -> list[datetime]:
    """Return where the buckets of the calendar begin that the service period touches, by walking through it."""
    return list(_walked(length, span["start"], span["end"], span["zone"]))


@cache
def _walked(length: str, start: datetime, end: datetime, zone: str) -> tuple[datetime, ...]:
    step = timedelta(minutes=15) if length == "hour" else timedelta(hours=1)
    found, at = set(), start
    while at < end:
        found.add(bucket_start(at, length, zone))
        at += step
    found.add(bucket_start(end - MICROSECOND, length, zone))
    return tuple(sorted(found))


def plain(kind: str, events: list[Row], meter: Row) -> Fraction:
    """Return an aggregation of one step; of nothing it is 0."""
    values = [amount_of(event) for event in sorted(events, key=order)]
    if kind == "count":
        return Fraction(len(values))
    if kind == "unique_count":
        keys = {attribute(event, meter["unique_attribute"]) for event in events}
        return Fraction(len(keys - {None}))
    if not values:
        return Fraction(0)
    if kind == "average":
        return half_away(sum(values, Fraction(0)) / len(values), 9)
    return {"sum": lambda: sum(values, Fraction(0)), "max": lambda: max(values), "min": lambda: min(values),
            "first": lambda: values[0], "last": lambda: values[-1]}[kind]()  # fmt: skip


def in_two_steps(events: list[Row], meter: Row, span: Row) -> Fraction:
    rule = meter["per_bucket"]
    inside: dict[datetime, list[Row]] = {}
    for event in events:
        inside.setdefault(bucket_of(event["event_time"], rule["length"], span), []).append(event)
    values = [plain(rule.get("value", "sum"), members, meter) for members in inside.values()]
    if rule.get("empty", "zero" if meter["aggregation"] == "percentile" else "skipped") == "zero":
        values += [Fraction(0)] * (buckets_in(rule["length"], span) - len(values))
    if meter["aggregation"] == "percentile":
        rank = math.ceil(Fraction(str(meter["percentile"])) * len(values) / 100)
        return sorted(values)[rank - 1]
    if meter["aggregation"] == "average":
        return half_away(sum(values, Fraction(0)) / len(values), 9)
    return {"sum": lambda v: sum(v, Fraction(0)), "max": max, "min": min}[meter["aggregation"]](values)


def over_time(events: list[Row], meter: Row, span: Row) -> Fraction:
    """Walk through the events, keep the level, add level x time since the last change."""
    level, since, integral = Fraction(0), span["start"], Fraction(0)
    for event in sorted(events, key=order):
        at = max(event["event_time"], span["start"])
        integral += level * ((at - since) // MICROSECOND)
        level = amount_of(event) if meter.get("events") == "level" else level + amount_of(event)
        since = at
    integral += level * ((span["end"] - since) // MICROSECOND)
    if meter.get("per"):
        return half_away(integral / (SECONDS[meter["per"]] * 10**6), 9)
    return half_away(integral / ((span["period_end"] - span["period_start"]) // MICROSECOND), 9)


def day(when: datetime, zone: str) -> int:
    return when.astimezone(ZoneInfo(zone)).toordinal()


def full_days(span: Row) -> int:
    return day(span["period_end"] - MICROSECOND, span["zone"]) - day(span["period_start"], span["zone"]) + 1


def sum_by_day(events: list[Row], span: Row) -> Fraction:
    last = day(span["end"] - MICROSECOND, span["zone"])
    weighed = Fraction(0)
    for event in events:
        weighed += amount_of(event) * (last - day(max(event["event_time"], span["start"]), span["zone"]) + 1)
    return half_away(weighed / full_days(span), 9)


def operation(event: Row, meter: Row) -> str:
    name = meter.get("operation_attribute")
    return "remove" if name and attribute(event, name) == "remove" else "add"


def by_key(events: list[Row], meter: Row) -> dict[str, list[Row]]:
    keys: dict[str, list[Row]] = {}
    for event in sorted(events, key=order):
        key = attribute(event, meter["unique_attribute"])
        if key is not None:
            keys.setdefault(key, []).append(event)
    return keys


def keys_in(events: list[Row], meter: Row) -> Fraction:
    """Replay each key: an add while out lets it in, a remove while in lets it out, repeats do nothing."""
    inside: set[str] = set()
    for key, members in by_key(events, meter).items():
        for event in members:
            if operation(event, meter) == "add":
                inside.add(key)
            else:
                inside.discard(key)
    return Fraction(len(inside))


def key_days(events: list[Row], meter: Row, span: Row) -> Fraction:
    """Go through the dates of the service period: a key that is in at any moment of a date has that date."""
    first, last = day(span["start"], span["zone"]), day(span["end"] - MICROSECOND, span["zone"])
    total = 0
    for members in by_key(events, meter).values():
        carried = [event for event in members if event["event_time"] < span["start"]]
        inside = bool(carried) and operation(carried[-1], meter) == "add"
        for date in range(first, last + 1):
            was_in = inside
            for event in members:
                if event["event_time"] >= span["start"] and day(event["event_time"], span["zone"]) == date:
                    inside = operation(event, meter) == "add"
                    was_in = was_in or inside
            total += was_in
    return half_away(Fraction(total, full_days(span)), 9)


def quantity_of(events: list[Row], meter: Row, span: Row) -> Fraction:
    kind = meter["aggregation"]
    if "per_bucket" in meter:
        return in_two_steps(events, meter, span)
    if kind == "time_weighted_sum":
        return over_time(events, meter, span)
    if kind == "sum" and meter.get("prorate"):
        return sum_by_day(events, span)
    if kind == "unique_count" and meter.get("prorate"):
        return key_days(events, meter, span)
    if kind == "unique_count" and meter.get("operation_attribute"):
        return keys_in(events, meter)
    return plain(kind, events, meter)


def measured(events: list[Row], meter: Row, span: Row) -> Fraction:
    """Return the quantity of a line, rounded as its meter says."""
    kinds = {"aggregation": "sum", **meter}
    if kinds["aggregation"] == "unique_count" and "unique_attribute" not in kinds:
        kinds["unique_attribute"] = kinds["attributes"][0]
    return rounded(quantity_of(events, kinds, span) if events else Fraction(0), meter.get("round"))


def is_held(event: Row, meter: Row, start: datetime) -> bool:
    """Return whether an event before the end of the service counts: it lies in it, or its meter carries what was before."""
    return event["event_time"] >= start or meter.get("carry") == "recurring"


def has_row(events: list[Row], meter: Row, span: Row) -> bool:
    """Return whether a group or a cell is a row: for an event of the period, or something that is carried into it."""
    inside = any(event["event_time"] >= span["start"] for event in events)
    return inside or quantity_of(events, {"aggregation": "sum", **meter}, span) != 0


def usage(events: list[Row], span: Row, selectors: list[Row]) -> Rows:
    """Return (number of events in the span, quantity) of every row that usage has; `events` count, all of them."""
    found: Rows = {}
    for selector in selectors:
        meter, by, cells, bucket = selector["meter"], selector["by"], selector["cell_by"], selector["bucket"]
        is_plain = not by and not cells and bucket is None
        lines: dict[Key, list[Row]] = {(selector["id"], (), ()): []} if is_plain else {}
        for event in events:
            inside = span["start"] <= event["event_time"] < span["end"]
            carried = meter.get("carry") == "recurring" and event["event_time"] < span["start"]
            if event["tenant_id"] != span["tenant"] or event["meter"] != meter["name"] or not (inside or carried):
                continue
            if is_taken(event, selector, selectors):
                group = tuple(attribute(event, name) for name in by)
                cell: Any = tuple(attribute(event, name) for name in cells)
                if bucket is not None:
                    cell = bucket_start(event["event_time"], bucket, span["zone"])
                lines.setdefault((selector["id"], group, cell), []).append(event)
        for key, members in lines.items():
            count = sum(1 for event in members if event["event_time"] >= span["start"])
            quantity = quantity_of(members, meter, span) if members else Fraction(0)
            if count or quantity or is_plain:
                found[key] = (count, rounded(quantity, meter.get("round")))
    return found
