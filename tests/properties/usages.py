"""Questions to usage for property tests: any meter, any selector, spans around clock changes, few instants and many edges.

As in strategies.py a seed decides all, and each part has a random source of its own. `engine_usage` puts a question to the
engine in the words of the oracle.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from random import Random
from typing import Any, NamedTuple

from metering.catalog import Meter
from metering.usage import Selector, Span, aggregate, load_events
from tests import oracle_usage
from tests.oracle_usage import Row, Rows
from tests.properties.strategies import ATTRIBUTES, MICROSECOND, QUANTITIES, VALUES, ZONES
from tests.rated import engine, events_table

LENGTHS = ("hour", "day", "week", "month", "7h", "1h")
STARTS = ("2026-03-28T00:00", "2026-03-29T01:00", "2026-04-01T22:30", "2026-10-24T00:00", "2026-04-04T13:30")
SERVICES = ("8h", "30h", "3d", "1us", "9d")
_HOURS = {"8h": 8, "30h": 30, "3d": 72, "9d": 216}


class Question(NamedTuple):
    events: list[Row]
    spans: list[Row]
    selectors: list[Row]


def meter(chance: Random, name: str) -> Row:
    kind = chance.choice(
        ("count", "sum", "max", "min", "first", "last", "average", "unique_count", "unique_count",
         "time_weighted_sum", "time_weighted_sum", "time_weighted_sum", "percentile", "percentile", "sum", "two_steps")
    )  # fmt: skip
    made: Row = {"name": name, "aggregation": kind, "negative_allowed": True}
    recurring = chance.random() < 0.5
    if kind in ("sum", "last", "unique_count", "time_weighted_sum") and recurring:
        made["carry"] = "recurring"
    if kind in ("sum", "unique_count") and recurring and chance.random() < 0.6:
        made["prorate"] = "day"
    if kind == "unique_count" and chance.random() < 0.6:
        made["operation_attribute"] = "op"
    if kind == "time_weighted_sum":
        made["events"] = chance.choice(("delta", "level"))
        if chance.random() < 0.3:
            made["per"] = chance.choice(("hour", "day", "second"))
    if kind in ("percentile", "two_steps"):
        made["per_bucket"] = {"length": chance.choice(LENGTHS)}
        made["per_bucket"]["value"] = chance.choice(("sum", "max", "min", "last", "count", "unique_count"))
        if chance.random() < 0.6:
            made["per_bucket"]["empty"] = chance.choice(("zero", "skipped"))
        made["aggregation"] = chance.choice(("sum", "max", "min", "average")) if kind == "two_steps" else kind
    if kind == "percentile":
        made["percentile"] = chance.choice(("95", "50", "99.9", "100", "0.000000001", "33.333333333"))
    if "unique_count" in (kind, made.get("per_bucket", {}).get("value")):
        made["unique_attribute"] = "user"
    if chance.random() < 0.2:
        made["round"] = {
            "mode": chance.choice(("round", "ceil", "floor")),
            "places": chance.choice((0, 1, 3, -1, 8, 9)),
        }
    return made


def selector(chance: Random, number: int, meters: list[Row]) -> Row:
    asked = chance.choice(meters)
    splits = chance.random()
    whole = "carry" in asked or "per_bucket" in asked or asked["aggregation"] == "time_weighted_sum"
    return {
        "id": f"s{number}",
        "meter": asked,
        "where": {
            name: chance.choice(("any", chance.sample(("a", "1", "A", "null", "true", ""), chance.randint(1, 3))))
            for name in ATTRIBUTES
            if chance.random() < 0.4
        },
        "by": list(chance.choice(((), (), ("model",), ("region", "model")))),
        "cell_by": ["region"] if splits < 0.2 else [],
        "bucket": chance.choice(("hour", "day", "week", "month")) if splits > 0.7 and not whole else None,
        "sibling": chance.choice((None, None, "x")),
    }


def span(chance: Random, number: int) -> Row:
    start = datetime.fromisoformat(chance.choice(STARTS)).replace(tzinfo=UTC)
    length = chance.choice(SERVICES)
    end = start + (MICROSECOND if length == "1us" else timedelta(hours=_HOURS[length]))
    return {
        "tenant": f"t{number}",
        "start": start,
        "end": end,
        "period_start": start - timedelta(hours=chance.choice((0, 0, 24, 7))),
        "period_end": end + timedelta(hours=chance.choice((0, 0, 100))),
        "zone": chance.choice(ZONES),
    }


def event(seed: int, number: int, meters: list[Row], spans: list[Row], instants: dict[str, list[datetime]]) -> Row:
    chance = Random(f"{seed} event {number}")
    tenant = chance.choice(spans)["tenant"]
    attributes = {name: chance.choice(VALUES) for name in ATTRIBUTES if chance.random() < 0.7}
    if chance.random() < 0.8:
        attributes |= {"user": chance.choice(("u", "u", "u", "v", "", None))}
    if chance.random() < 0.7:
        attributes |= {"op": chance.choice(("add", "remove", "remove", "other"))}
    return {
        "tenant_id": tenant,
        "meter": chance.choice(meters)["name"],
        "event_time": chance.choice(instants[tenant]) + chance.choice((-1, 0, 0, 0, 1)) * MICROSECOND,
        "attributes": attributes,
        "quantity": chance.choice(QUANTITIES),
        "recorded_at": datetime(2026, 1, 1, tzinfo=UTC) + chance.randint(0, 3) * MICROSECOND,
        "producer_id": chance.choice("xy"),
        "segment": chance.randint(0, 1),
        "row": chance.choice((number, 1000 - number)),
        "idempotency_key": None,
    }


def instants_of(chance: Random, asked: Row) -> list[datetime]:
    """Return instants before, at the edges of, and inside the span; several of one local day, hour and bucket."""
    start, service = asked["start"], asked["end"] - asked["start"]
    inside = [start + service * chance.randint(0, 48) // 48 for _ in range(6)]
    near = [one + timedelta(minutes=chance.choice((30, 60, 240, -60))) for one in inside]
    return [start, asked["end"], start - timedelta(days=1), start - timedelta(days=400), *inside, *near]


def question_of(seed: int, meters: int, selectors: int, events: int) -> Question:
    made = [meter(Random(f"{seed} meter {number}"), f"m{number}") for number in range(meters)]
    asked = [selector(Random(f"{seed} selector {number}"), number, made) for number in range(selectors)]
    spans = [span(Random(f"{seed} span {number}"), number) for number in range(2)]
    instants = {one["tenant"]: instants_of(Random(f"{seed} instants {one['tenant']}"), one) for one in spans}
    return Question([event(seed, number, made, spans, instants) for number in range(events)], spans, asked)


def _selector_of(row: Row) -> Selector:
    checked = Meter.model_validate(row["meter"])
    return Selector(
        "all",
        row["id"],
        checked.name,
        checked.aggregation,
        checked.unique_attribute,
        tuple((name, None if allowed == "any" else tuple(allowed)) for name, allowed in row["where"].items()),
        tuple(sorted(row["by"])),
        tuple(sorted(row["cell_by"])),
        row["bucket"],
        row["sibling"],
        measure=checked.measure,
    )


def _values(key: str, names: list[str]) -> tuple[Any, ...]:
    return tuple(json.loads(key)[name] for name in names) if key else ()


def engine_usage(asked: Question) -> list[Rows]:
    """Return the rows of `usage` of each span, keyed like the oracle's."""
    load_events(engine(), events_table(asked.events))
    spans = [
        Span(
            number, one["tenant"], "all", one["start"], one["end"], one["zone"], one["period_start"], one["period_end"]
        )
        for number, one in enumerate(asked.spans)
    ]
    aggregate(engine(), spans, [_selector_of(row) for row in asked.selectors])
    found: list[Rows] = [{} for _ in spans]
    by_id = {row["id"]: row for row in asked.selectors}
    rows = engine().execute("SELECT span_id, selector_id, group_key, cell_key, event_count, quantity FROM usage")
    for span_id, selector_id, group_key, cell_key, event_count, quantity in rows.fetchall():
        row = by_id[selector_id]
        is_bucket = row["bucket"] is not None
        cell = datetime.fromisoformat(cell_key) if is_bucket else _values(cell_key, row["cell_by"])
        key = selector_id, _values(group_key, row["by"]), cell
        if key in found[span_id]:
            raise AssertionError(f"two rows of {key}")
        found[span_id][key] = event_count, Fraction(quantity)
    return found


def check_same_usage(asked: Question, theirs: list[Rows] | None = None) -> None:
    """The engine and the oracle give the same rows: events and quantity of each."""
    expected = oracle_rows(asked) if theirs is None else theirs
    for number, (ours, rows) in enumerate(zip(engine_usage(asked), expected, strict=True)):
        assert ours.keys() == rows.keys(), number
        for key, row in rows.items():
            meter_of = next(one["meter"] for one in asked.selectors if one["id"] == key[0])
            assert (meter_of, key, ours[key]) == (meter_of, key, row)


def oracle_rows(asked: Question) -> list[Rows]:
    return [oracle_usage.usage(asked.events, one, asked.selectors) for one in asked.spans]
