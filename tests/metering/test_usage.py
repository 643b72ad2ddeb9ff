"""Usage asked in ways that no price needs yet: cells, buckets of time, filters on presence."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from metering.errors import BadSelector
from metering.usage import Selector, Span, aggregate, load_events
from tests.conformance.ask import event
from tests.rated import engine, events_table

MARCH = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)


def used(events: list[dict[str, Any]], timezone: str = "UTC", **selector: Any) -> dict[tuple[str, str], Decimal]:
    """Return the quantity of each (group, cell)."""
    load_events(engine(), events_table(events))
    question = Selector("all", "one", "units", selector.pop("aggregation", "sum"), **selector)
    aggregate(engine(), [Span(0, "tenant", "all", *MARCH, timezone=timezone)], [question])
    rows = engine().execute("SELECT group_key, cell_key, quantity FROM usage ORDER BY ALL").fetchall()
    return {(group, cell): quantity for group, cell, quantity in rows}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_cells_split_a_group_by_attributes() -> None:
    events = [
        event(1, at("2026-03-02"), 0, model="a", region="eu"),
        event(2, at("2026-03-02"), 1, model="a", region="us"),
        event(4, at("2026-03-02"), 2, model="a"),
        event(8, at("2026-03-02"), 3, region="eu"),
    ]
    assert used(events, by=("model",), cell_by=("region",)) == {
        ('{"model":"a"}', '{"region":"eu"}'): 1,
        ('{"model":"a"}', '{"region":"us"}'): 2,
        ('{"model":"a"}', '{"region":null}'): 4,
        ('{"model":null}', '{"region":"eu"}'): 8,
    }


def test_without_an_event_a_selector_with_cells_has_no_row() -> None:
    assert used([]) == {("", ""): 0}
    assert used([], cell_by=("region",)) == used([], bucket="day") == {}


def test_days_are_cut_in_the_zone_of_the_span() -> None:
    # In Paris the clock goes forward on 29 March: the day begins at 23:00 UTC and ends at 22:00 UTC.
    events = [
        event(1, at("2026-03-28T22:59:59.999999"), 0),
        event(2, at("2026-03-28T23:00"), 1),
        event(4, at("2026-03-29T21:59:59.999999"), 2),
        event(8, at("2026-03-29T22:00"), 3),
    ]
    assert used(events, "Europe/Paris", bucket="day") == {
        ("", "2026-03-27T23:00:00Z"): 1,
        ("", "2026-03-28T23:00:00Z"): 6,
        ("", "2026-03-29T22:00:00Z"): 8,
    }


def test_weeks_begin_on_monday_and_the_first_may_begin_before_the_span() -> None:
    events = [event(1, at("2026-03-01"), 0), event(2, at("2026-03-02"), 1), event(4, at("2026-02-28"), 2)]
    assert used(events, bucket="week") == {("", "2026-02-23T00:00:00Z"): 1, ("", "2026-03-02T00:00:00Z"): 2}


@pytest.mark.parametrize(("aggregation", "quantity"), [("max", 5), ("last", 2), ("count", 2), ("min", 2)])
def test_buckets_know_every_aggregation(aggregation: str, quantity: int) -> None:
    events = [
        event(5, at("2026-03-05T10:00"), 0),
        event(2, at("2026-03-05T10:59"), 1),
        event(9, at("2026-03-05T11:00"), 2),
    ]
    assert used(events, aggregation=aggregation, bucket="hour")["", "2026-03-05T10:00:00Z"] == quantity


def test_any_value_is_not_no_value() -> None:
    events = [
        event(1, at("2026-03-02"), 0, model=""),
        event(2, at("2026-03-02"), 1, region="eu"),
        event(4, at("2026-03-02"), 2),
    ]
    assert used(events, where=(("model", None),)) == {("", ""): 1}
    assert used(events, where=(("model", None), ("region", ("eu",)))) == {("", ""): 0}


def test_a_question_without_an_answer_is_refused() -> None:
    with pytest.raises(BadSelector, match="hour, day, week, month"):
        used([], bucket="year")
    with pytest.raises(BadSelector, match="one of both"):
        used([], bucket="day", cell_by=("region",))
