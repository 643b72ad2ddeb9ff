"""The part of the reader of `lago.jsonl` that is about usage: aggregations, filters, duplicates, days.

A first date and a last date are both counted there; ours is the open end, a day later. `units_rounded_5` is a figure
that was rounded to be written down, `units` of a prorated meter one that the dialect rounds up to 5 places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise, product
from typing import Any

from metering.expressions import read_expression
from metering.periods import CALENDAR_ANCHOR, BillingCycle
from metering.usage import Selector
from rating.dialect import Switches
from tests.conformance import ask
from tests.conformance.cases import Agrees, Answer, Asked

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
# Places to which a figure was cut or rounded when it was written down.
WRITTEN = {"units_rounded_3": ("round", 3), "units_rounded_5": ("round", 5)}
LAGO = Switches.of("lago")


def quantity(asked: Asked) -> Decimal:
    """Return the units of a case: said, counted, or summed over its events."""
    if asked("units") is not None:
        return Decimal(str(asked("units")))
    kind = asked("aggregation", "sum")
    if "event_count" in asked:
        events = [ask.event(1, row=row) for row in range(int(asked("event_count", 0)))]
    else:
        events = in_order(asked("events", []))
    (used,) = ask.usage(kind, events)
    return used.quantity


def in_order(values: Sequence[object], start: int = 0) -> list[dict[str, Any]]:
    """Return events in the order of time; what is no quantity is refused and makes no event."""
    quantities = [ask.accepted_quantity(str(value)) for value in values]
    return [
        ask.event(quantity, ask.PERIOD[0] + (start + row) * SECOND, start + row)
        for row, quantity in enumerate(quantities)
        if quantity is not None
    ]


def _before(values: Sequence[object], start: datetime) -> list[dict[str, Any]]:
    return [ask.event(value, start - DAY, row - len(values)) for row, value in enumerate(values)]


def latest(asked: Asked) -> dict[str, Any]:
    """The last event in the order of time; below zero it is rated as zero."""
    (used,) = ask.usage("last", in_order(asked("last_two_events") or asked("events", [])))
    return _rated_units(used)


def maximum(asked: Asked) -> dict[str, Any]:
    (used,) = ask.usage("max", in_order(asked("events", [])))
    return _rated_units(used)


def total(asked: Asked) -> dict[str, Any]:
    carry = "recurring" if asked("recurring") else None
    events = _before(asked("events_before_period", []), ask.PERIOD[0]) + in_order(asked("events_in_period", []))
    if "events_in_period" in asked:
        # What a cache said of these events; the answer is worked out from the events themselves.
        asked("cached_now"), asked("cached_peak")
    (used,) = ask.usage("sum", events, carry=carry)
    free = asked("free_units_total")
    return _rated_units(used) | ({"running_total": list(_until_charged(events, free))} if free else {})


def _until_charged(events: Sequence[dict[str, Any]], free: str) -> Iterator[Decimal]:
    """Yield the sum after each event, up to the first of which something is charged."""
    price = ask.price(type="unit", unit_price="1", included=free)
    for known in range(1, len(events) + 1):
        (used,) = ask.usage("sum", events[:known])
        yield used.quantity
        ((_, components),) = ask.cuts(price, [ask.Cut(used.quantity)])
        if any(component.part == "unit" and component.quantity for component in components):
            return


def _rated_units(used: ask.Used) -> dict[str, Any]:
    # A quantity below zero is rated as zero: that is a rule of rating, so the engine is asked for it.
    ((_, components),) = ask.cuts(ask.price(type="unit", unit_price="1"), [ask.Cut(used.quantity)])
    units = sum((component.quantity for component in components), Decimal(0))
    return {"units": units, "event_count": used.event_count}


def unique_count(asked: Asked) -> dict[str, Any]:
    """Distinct keys of the period. Keys of the time before count for nothing unless the meter carries them over."""
    start, times = ask.PERIOD[0], []
    keys = [(start - SECOND, key, "add") for key in [*asked("keys_before_period", []), *asked("carried_keys", [])]]
    keys += [(start, key, "add") for key in asked("added_keys", [])]
    keys += [(start, key, "remove") for key in asked("removed_keys", [])]
    for given in asked.rows("events"):
        times.append(_instant(given("at")))
        keys.append((times[-1], given("key"), given("op", "add")))
    events = [ask.event(1, at, row, unit=key, operation=operation) for row, (at, key, operation) in enumerate(keys)]
    period = (min(times), max(times) + SECOND) if times else ask.PERIOD
    (used,) = ask.usage(
        "unique_count", events, period=period, unique_attribute="unit", operation_attribute="operation",
        carry="recurring" if asked("recurring") else None,
    )  # fmt: skip
    return {"units": used.quantity, "event_count": used.event_count}


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _service(asked: Asked, days: int) -> tuple[tuple[datetime, datetime], tuple[datetime, datetime]]:
    """Return the service period, from the first to the last day (or second), and the full period of so many days."""
    first, last = (_instant(text) for text in asked("period"))
    end = last + (SECOND if "T" in asked("period")[1] else DAY)
    return (first, end), (end - days * DAY, end)


def prorated_sum(asked: Asked) -> dict[str, Any]:
    """A recurring sum of which every change counts from its date to the last date of the period."""
    service, full = _service(asked, int(asked("days")))
    given = [*asked("events", []), *asked("events_in_period", []), *filter(None, [asked("extra_event")])]
    changes = [ask.event(row["value"], _instant(row["date"]), number) for number, row in enumerate(given)]
    events = _before(asked("events_before_period", []), service[0]) + changes
    if asked("carried_days"):
        events = _before([row["value"] for row in given], service[0])
        service = service[1] - int(asked("carried_days")) * DAY, service[1]
        events = [{**event, "event_time": full[0] - DAY} for event in events]

    def units(counted: Sequence[dict[str, Any]], mode: str = "round", places: int = 9) -> Decimal:
        (used,) = ask.usage(
            "sum", counted, period=service, full=full, carry="recurring", prorate="day",
            round={"mode": mode, "places": places},
        )  # fmt: skip
        return used.quantity

    (whole,) = ask.usage("sum", events, period=service, carry="recurring")
    return {
        "units": _units_of_lago("sum", events, service, full),
        "full_units": whole.quantity,
        "values_rounded_3": [units([event], places=3) for event in changes],
        **{name: units(events, *written) for name, written in WRITTEN.items()},
    }


def _units_of_lago(
    aggregation: str, events: Sequence[dict[str, Any]], service: Any, full: Any, **terms: Any
) -> Decimal:
    """Return a prorated quantity as a plan in the dialect has it: rounded up to five places."""
    (used,) = ask.usage(
        aggregation, events, period=service, full=full, carry="recurring", prorate="day", switches=LAGO, **terms
    )
    return used.quantity


def prorated_unique_count(asked: Asked) -> dict[str, Any]:
    """Distinct keys, each by the days on which it was in."""
    service, full = _service(asked, int(asked("days")))
    events = [
        ask.event(1, _instant(given("at")), row, unit=given("key"), operation=given("op", "add"))
        for row, given in enumerate(asked.rows("events"))
    ]
    terms = {"unique_attribute": "unit", "operation_attribute": "operation"}
    (whole,) = ask.usage("unique_count", events, period=service, carry="recurring", **terms)
    written = {
        name: ask.usage(
            "unique_count", events, period=service, full=full, carry="recurring", prorate="day",
            round={"mode": mode, "places": places}, **terms,
        )[0].quantity
        for name, (mode, places) in WRITTEN.items()
    }  # fmt: skip
    units = _units_of_lago("unique_count", events, service, full, **terms)
    return {"units": units, "full_units": whole.quantity, **written}


def weighted_sum(asked: Asked) -> dict[str, Any]:
    """A level over time, from the level that history left and the changes of the period."""
    if "unit_price" in asked:
        return _weighted_invoice(asked)
    start, end = _instant(asked("from")), _instant(asked("to_exclusive"))
    asked("days")  # The length of the period says it.
    events = [ask.event(given("delta"), _instant(given("at")), row) for row, given in enumerate(asked.rows("events"))]
    carried = [ask.event(asked("initial_value", "0"), start - SECOND, -1)]

    def mean(service: tuple[datetime, datetime], full: tuple[datetime, datetime], **terms: Any) -> ask.Used:
        return ask.usage("time_weighted_sum", carried + events, period=service, full=full, carry="recurring", **terms)[
            0
        ]

    def means(steps: list[Any], full: tuple[datetime, datetime] | None = None, **terms: Any) -> list[Decimal]:
        found = ask.usage_of_each("time_weighted_sum", carried + events, steps, full=full, carry="recurring", **terms)
        return [used.quantity for used in found]

    edges = sorted({start, end, *(event["event_time"] for event in events)})
    steps = list(pairwise(edges))
    (variation,) = ask.usage("sum", events, period=(start, end))
    ones = [ask.event(1, start - SECOND)]
    return {
        **{
            name: mean((start, end), (start, end), round={"mode": mode, "places": places}).quantity
            for name, (mode, places) in WRITTEN.items()
        },
        "event_count": mean((start, end), (start, end)).event_count,
        "variation": variation.quantity,
        "levels": means(steps),
        "seconds": [
            used.quantity
            for used in ask.usage_of_each("time_weighted_sum", ones, steps, carry="recurring", per="second")
        ],
        # Contributions were cut when they were written down.
        "contributions_5": means(steps, (start, end), round={"mode": "floor", "places": 5}),
    }


def _weighted_invoice(asked: Asked) -> dict[str, Any]:
    """The invoice of a subscription that began inside the month, and the level that the next month begins with."""
    first, last = (_instant(text) for text in asked("period"))
    asked("days")
    events = [ask.event(row("delta"), _instant(row("at")), at) for at, row in enumerate(asked.rows("events"))]
    catalog = ask.catalog(
        [ask.price(type="unit", unit_price=str(asked("unit_price")))],
        meter={"aggregation": "time_weighted_sum", "carry": "recurring"},
        subscription={"from": asked("subscription_start")},
    )
    lines = ask.invoiced(catalog, events, first.strftime("%Y-%m"))
    month = BillingCycle("month", CALENDAR_ANCHOR).period_at(last + DAY)
    (left,) = ask.usage("time_weighted_sum", events, period=(month.start, month.end), carry="recurring")
    return {"amount_cents": sum((line.amount for line in lines), Decimal(0)) * 100, "next_initial_value": left.quantity}


def unit_rounding(asked: Asked) -> dict[str, Any]:
    """The meter's own rounding; without places it keeps none."""
    mode, places = asked("function"), int(asked("precision", 0))
    rounding = None if mode is None else {"mode": mode, "places": places}
    (used,) = ask.usage("sum", [ask.event(asked("units"))], round=rounding)
    return {"units": used.quantity}


def filters(asked: Asked) -> Any:
    """Who takes which events among siblings: of filters that match, the one that says most."""
    if "bucket" in asked:
        return _bucket(asked)
    match, events = asked("match"), asked("events")
    # What no event of the case writes is the same in all of them: that the filter asks for it would tell nothing.
    silent = {name: values[0] for name, values in match.items() if not any(name in event for event in events)}
    siblings = {"match": match}
    for number, more in enumerate(asked("exclude", [])):
        siblings[f"exclude {number}"] = {**match, **more}
    given = [
        ask.event(
            event["value"], ask.PERIOD[0] + row * SECOND, row, row_number=str(row), **silent, **_attributes(event)
        )
        for row, event in enumerate(events)
    ]
    used = dict(_taken(siblings, given, "row_number")["match"].items())
    return {
        "values_in_time_order": [used[row].quantity for row in sorted(used, key=int)],
        "count": sum(one.event_count for one in used.values()),
    }


def _attributes(event: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name != "value" and value is not None}


def _bucket(asked: Asked) -> Agrees:
    """One event for every combination of values, also of those left out; the answer is which of them the filter takes."""
    values, siblings, bucket = asked("values"), asked("filters"), asked("bucket")
    combinations = [
        {name: value for name, value in zip(values, chosen, strict=True) if value is not None}
        for chosen in product(*([*listed, None] for listed in values.values()))
    ]
    events = [ask.event(1, row=row, row_number=str(row), **one) for row, one in enumerate(combinations)]
    taken = _taken(siblings, events, "row_number").get(bucket, {})

    def agrees(expected: Mapping[str, Any]) -> bool:
        meant = {
            str(row)
            for row, one in enumerate(combinations)
            if _matches(one, expected["match"]) and not any(_matches(one, less) for less in expected["exclude"])
        }
        return set(taken) == meant

    return Agrees(agrees, f"{bucket} takes {sorted(combinations[int(row)].items() for row in taken)}")


def _matches(event: Mapping[str, str], wanted: Mapping[str, Sequence[str]]) -> bool:
    return all(event.get(name) in values for name, values in wanted.items())


def _taken(siblings: Mapping[str, Any], events: list[dict[str, Any]], row: str) -> dict[str, dict[str, ask.Used]]:
    """Return what each sibling takes, by the row of the event."""
    selectors = [
        Selector(
            "all", name, "units", "sum", sibling="filters", by=(row,),
            where=tuple((key, None if values == "all" else tuple(values)) for key, values in sorted(where.items())),
        )
        for name, where in siblings.items()
    ]  # fmt: skip
    used = ask.used_by(selectors, events)
    return {name: {ask.group_value(one, row): one for one in groups} for name, groups in used.items()}


def dedupe(asked: Asked) -> dict[str, Any]:
    """Events with a transaction id, in order of arrival. The first of each id counts, whenever it says it happened."""
    times = {at: ask.PERIOD[0] + number * SECOND for number, at in enumerate(_labels(asked("events")))}
    events = [
        ask.event(given["value"], times[given["at"]], row, key=given["tx"]) for row, given in enumerate(asked("events"))
    ]
    ((summed,), (counted,)) = ask.usage("sum", events), ask.usage("count", events)
    return {"sum": summed.quantity, "count": counted.quantity}


def _labels(events: Sequence[dict[str, Any]]) -> list[str]:
    return sorted({given["at"] for given in events})


def dedupe_batch(asked: Asked) -> dict[str, Any]:
    """How many events a batch adds to what is stored. A duplicate is success, and never a reason to refuse the rest."""
    stored, batch = asked("stored", []), asked("tx")
    if batch is None:
        asked("max")
        batch = [str(number) for number in range(int(asked("count")))]
    before = [ask.event(1, row=row, key=key) for row, key in enumerate(stored)]
    after = [ask.event(1, row=len(stored) + row, key=key) for row, key in enumerate(batch)]
    ((without,), (with_batch,)) = ask.usage("count", before), ask.usage("count", before + after)
    return {"stored_new": with_batch.quantity - without.quantity, "error_indexes": []}


def expression(asked: Asked) -> dict[str, Any]:
    """The quantity of an event, worked out from its properties; there a name of theirs has a path before it."""
    event = asked("event", {})
    attributes = asked("properties") or event.get("properties", event)
    text = asked("expr").replace("event.properties.", "")
    return {"value": read_expression(text).quantity_of(attributes)}


ANSWERS: dict[str, Answer] = {
    "aggregation.latest": latest,
    "aggregation.max": maximum,
    "aggregation.sum": total,
    "aggregation.sum.prorated": prorated_sum,
    "aggregation.unique_count": unique_count,
    "aggregation.unique_count.prorated": prorated_unique_count,
    "aggregation.weighted_sum": weighted_sum,
    "expression": expression,
    "rounding.units": unit_rounding,
    "filters": filters,
    "dedupe": dedupe,
    "dedupe.batch": dedupe_batch,
}
