"""Keys of a meter that make no sense together are refused with what to do; the others become the measure that usage asks."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from metering.catalog import Meter
from metering.errors import BadSelector, TooManyGroups
from metering.measures import Measure
from metering.usage import Selector, Span, aggregate, load_events
from tests.conformance.ask import PERIOD, event
from tests.rated import engine, events_table

REFUSED = [
    ({"aggregation": "max", "carry": "recurring"}, "leaves nothing to carry"),
    ({"aggregation": "percentile", "per_bucket": {"length": "5m"}}, "must say which"),
    ({"aggregation": "percentile", "percentile": "95"}, "taken over buckets"),
    ({"aggregation": "percentile", "percentile": "101", "per_bucket": {"length": "5m"}}, "up to 100"),
    ({"aggregation": "sum", "percentile": "95"}, "only percentile has one"),
    ({"aggregation": "last", "per_bucket": {"length": "5m"}}, "write one of these"),
    ({"aggregation": "sum", "per_bucket": {"length": "5 minutes"}}, "30s, 5m or 1h"),
    ({"aggregation": "sum", "per_bucket": {"length": "day"}, "carry": "recurring"}, "hold no history"),
    ({"aggregation": "sum", "prorate": "day"}, "carry: recurring"),
    ({"aggregation": "sum", "operation_attribute": "op"}, "only unique_count adds and removes"),
    ({"aggregation": "unique_count"}, "must know which attribute"),
    ({"aggregation": "sum", "events": "level"}, "only time_weighted_sum"),
    ({"aggregation": "sum", "per": "hour"}, "only time_weighted_sum"),
    ({"aggregation": "sum", "round": {"mode": "ceil", "places": "10"}}, "write -18 to 9"),
]


@pytest.mark.parametrize(("keys", "says"), REFUSED, ids=[says for _, says in REFUSED])
def test_a_combination_without_sense_is_refused(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Meter.model_validate({"name": "m", **keys})


def quantity(events: list[Any], **keys: Any) -> Decimal:
    meter = Meter.model_validate({"name": "units", "negative_allowed": True, **keys})
    load_events(engine(), events_table(events))
    selector = Selector("all", "one", "units", meter.aggregation, meter.unique_attribute, by=(), measure=meter.measure)
    aggregate(engine(), [Span(0, "tenant", "all", *PERIOD)], [selector])
    found = engine().execute("SELECT quantity FROM usage").fetchall()
    return Decimal(found[0][0])


def test_the_mean_of_a_level_is_that_of_the_price_models() -> None:
    changes = [event(amount, datetime(2026, 1, day, 6, tzinfo=UTC), day) for day, amount in ((1, 31), (16, -31))]
    assert quantity(changes, aggregation="time_weighted_sum") == 15
    assert quantity(changes, aggregation="time_weighted_sum", per="day") == 465


def test_rounding_is_of_the_aggregate() -> None:
    events = [event("20.6", PERIOD[0], 0), event("20.601", PERIOD[0], 1)]
    assert quantity(events, round={"mode": "ceil", "places": "1"}) == Decimal("41.3")
    assert quantity(events, round={"mode": "ceil", "places": "-1"}) == 50


def test_the_95th_percentile_of_twenty_is_the_second_largest() -> None:
    events = [event(50 if hour == 3 else 90 if hour == 5 else 10, datetime(2026, 1, 1, hour, tzinfo=UTC), hour)
              for hour in range(20)]  # fmt: skip
    bucket = {"length": "1h", "value": "sum", "empty": "skipped"}
    asked = {percent: quantity(events, aggregation="percentile", percentile=percent, per_bucket=bucket)
             for percent in ("50", "95", "99")}  # fmt: skip
    assert asked == {"50": 10, "95": 50, "99": 90}


def test_more_groups_than_declared_are_an_error_and_never_cut() -> None:
    load_events(engine(), events_table([event(1, PERIOD[0], row, model=str(row)) for row in range(3)]))
    span = Span(0, "tenant", "all", *PERIOD)
    for groups_max in (3, 2):
        selector = Selector("all", "one", "units", "sum", by=("model",), groups_max=groups_max)
        if groups_max == 3:
            aggregate(engine(), [span], [selector])
            continue
        with pytest.raises(TooManyGroups, match=r"3 groups .* groups_max of 2") as refused:
            aggregate(engine(), [span], [selector])
        assert refused.value.groups == 3


def test_what_looks_at_the_whole_period_is_not_split_by_time() -> None:
    with pytest.raises(BadSelector, match="looks at the whole period"):
        Selector("all", "one", "units", "sum", bucket="day", measure=Measure(carry="recurring"))
