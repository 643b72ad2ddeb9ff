"""What usage is asked: spans and selectors, and the small tables that the SQL reads them from.

Enters: `Span`s (whose use, from when to when) and `Selector`s (what to add up). Leaves: the tables
    span             one row per span
    selector         one row per selector, in the order given (`position`)
    selector_filter  one row per (selector, attribute, value); value null: any value
    selector_part    one row per (selector, part of time whose states it reads); '' is the whole span
    part_length      one row per fixed length of bucket that is asked for, in microseconds
    time_bucket      one row per (part, timezone, bucket start) of the calendar buckets that are asked for
    span_day         one row per span, if a selector prorates by days: the first and last date, the dates of the full period
    meter_state      one row per meter that needs the order of its events, or their level over time
Refuses: questions without an answer, as BadSelector.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

from metering.buckets import CALENDAR_BUCKETS, bucket_length_us, bucket_starts
from metering.clock import to_us
from metering.engine import read_sql
from metering.errors import BadSelector
from metering.measures import ADDED, PER_US, PLAIN, RECURRING, Measure, way_of
from metering.periods import zone

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import duckdb
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Span:
    """Whose use to add up, and from when to when: [service_start, service_end). Buckets are cut in `timezone`.

    `period_start` and `period_end` are the full billing period of which the service period is a part; left out, the same.
    `since` is when that began of which the span is a part, such as the time on a plan; left out, with the span.
    """

    span_id: int
    tenant_id: str
    selector_set: str
    service_start: datetime
    service_end: datetime
    timezone: str = "UTC"
    period_start: datetime | None = None
    period_end: datetime | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Selector:
    """What to add up: a meter, its aggregation, filters on attributes, the attributes to group by, and what splits lines.

    `where` holds (attribute, values) pairs, all of which must match; values None: any value, the attribute is present.
    `cell_by` splits each group into cells by attributes, `bucket` (hour, day, week, month) by time; not both.
    Selectors of one set, meter and `sibling` split the events between them. Above `groups_max` groups: TooManyGroups.
    """

    selector_set: str
    selector_id: str
    meter: str
    aggregation: str
    unique_attribute: str | None = None
    where: tuple[tuple[str, tuple[str, ...] | None], ...] = ()
    by: tuple[str, ...] = ()
    cell_by: tuple[str, ...] = ()
    bucket: str | None = None
    sibling: str | None = None
    groups_max: int | None = None
    measure: Measure = PLAIN
    is_before: bool = False

    def __post_init__(self) -> None:
        refusal = _refusal_of(self)
        if refusal:
            raise BadSelector(f"{self.selector_id}: {refusal}", selector_id=self.selector_id)

    @property
    def way(self) -> str | None:
        """Return which statement answers; see metering.measures."""
        return way_of(self.aggregation, self.measure)

    @property
    def needs_order(self) -> bool:
        """Return whether the first or last event of the span is asked for."""
        return self.aggregation in ("first", "last") or self.measure.operation_attribute is not None

    @property
    def needs_time(self) -> bool:
        """Return whether changes of a level are added up over time; levels that are set are read from the events."""
        return self.aggregation == "time_weighted_sum" and self.measure.events == "delta"

    @property
    def parts(self) -> tuple[str, ...]:
        """Return the parts of time whose states are merged: '' is the whole span, `carried` all that was before it.

        `before` is what was before it and since `Span.since`.
        """
        if self.is_before:
            return ("before",)
        if self.way == "level":
            return ("", "carried") if self.measure.is_recurring else ("",)
        if self.bucket is not None:
            return (self.bucket,)
        if self.measure.per_bucket is not None:
            return (self.measure.per_bucket.length,)
        if self.measure.prorate:
            return "day", "carried"
        return ("", "carried") if self.measure.is_recurring else ("",)


def _refusal_of(selector: Selector) -> str | None:
    """Return why a selector has no answer, and what to ask instead; None where it has one."""
    measure = selector.measure
    if selector.way is None:
        inner = "" if measure.per_bucket is None else " in two steps"
        return f"nobody knows the aggregation {selector.aggregation!r}{inner}; correct the meter"
    if selector.aggregation == "percentile" and measure.percentile is None:
        return "a percentile must say which; give the measure its percentile"
    if measure.is_recurring and selector.aggregation not in RECURRING:
        return f"{selector.aggregation} carries nothing into the next period; ask for one of {', '.join(RECURRING)}"
    if selector.is_before and (selector.aggregation not in ADDED or measure != PLAIN or selector.bucket is not None):
        return f"what was used before a span adds up for {' and '.join(ADDED)} alone; ask for one of them, and nothing more"
    if selector.bucket is None:
        return None
    if selector.bucket not in CALENDAR_BUCKETS:
        return f"there are no buckets of {selector.bucket!r}; ask for one of {', '.join(CALENDAR_BUCKETS)}"
    if selector.cell_by:
        return f"a line is split by {', '.join(selector.cell_by)} or by {selector.bucket}; ask for one of both"
    if measure.is_recurring or measure.per_bucket is not None or selector.aggregation == "time_weighted_sum":
        return (
            f"{selector.aggregation} of this meter looks at the whole period (it is recurring, over time or in two steps); "
            f"do not split it by {selector.bucket}"
        )
    return None


def register(engine: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> None:
    """Copy an Arrow table into the engine under a fixed name, replacing an earlier one."""
    columns = _columns_of(table.schema) if table.num_rows == 0 else None
    if columns is not None:
        # Most tables of most questions are empty; to name their columns takes a third of what looking for rows does.
        engine.execute(f"CREATE OR REPLACE TABLE {name} ({columns})")
        return
    engine.register("arriving", table)
    engine.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM arriving")
    engine.unregister("arriving")


@cache
def _columns_of(schema: pa.Schema) -> str | None:
    """Return names and types of columns as SQL says them, or None where a type is not one that questions have."""
    written = {
        "string": "VARCHAR", "int64": "BIGINT", "int32": "INTEGER", "bool": "BOOLEAN",
        "timestamp[us, tz=UTC]": "TIMESTAMPTZ", "list<item: string>": "VARCHAR[]",
    }  # fmt: skip
    columns = []
    for field in schema:
        text = str(field.type)
        kind = text.replace("decimal128", "DECIMAL") if text.startswith("decimal128") else written.get(text)
        if kind is None:
            return None
        columns.append(f'"{field.name}" {kind}')
    return ", ".join(columns)


def register_questions(engine: duckdb.DuckDBPyConnection, spans: Sequence[Span], selectors: Sequence[Selector]) -> None:
    """Make the tables that the module's head lists."""
    _register_spans(engine, spans)
    _register_selectors(engine, selectors)
    _register_filters(engine, selectors)
    _register_parts(engine, spans, selectors)
    _register_days(engine, spans if any(selector.measure.prorate for selector in selectors) else ())
    _register_states(engine, selectors)


def _register_spans(engine: duckdb.DuckDBPyConnection, spans: Sequence[Span]) -> None:
    import pyarrow as pa

    # Spans that are laid out in columns already need not be made into objects and back.
    table = getattr(spans, "table", None)
    if table is not None:
        register(engine, "span", table())
        return
    # A hundred thousand spans have a few different instants; turning each into microseconds once is what is quick.
    us_of = cache(to_us)
    instant = pa.timestamp("us", tz="UTC")

    def instants(found: list[datetime]) -> pa.Array:
        return pa.array(map(us_of, found), pa.int64(), size=len(found)).cast(instant)

    columns = {
        "span_id": pa.array([span.span_id for span in spans], pa.int64()),
        "tenant_id": pa.array([span.tenant_id for span in spans], pa.string()),
        "selector_set": pa.array([span.selector_set for span in spans], pa.string()),
        "service_start": instants([span.service_start for span in spans]),
        "service_end": instants([span.service_end for span in spans]),
        "timezone": pa.array([span.timezone for span in spans], pa.string()),
        "period_start": instants([span.period_start or span.service_start for span in spans]),
        "period_end": instants([span.period_end or span.service_end for span in spans]),
        "since": instants([span.since or span.service_start for span in spans]),
    }
    register(engine, "span", pa.table(columns))


def _register_selectors(engine: duckdb.DuckDBPyConnection, selectors: Sequence[Selector]) -> None:
    import pyarrow as pa

    names = pa.list_(pa.string())
    columns = {
        "selector_set": pa.array([selector.selector_set for selector in selectors], pa.string()),
        "selector_id": pa.array([selector.selector_id for selector in selectors], pa.string()),
        "position": pa.array(range(len(selectors)), pa.int64()),
        "meter": pa.array([selector.meter for selector in selectors], pa.string()),
        "aggregation": pa.array([selector.aggregation for selector in selectors], pa.string()),
        "unique_attribute": pa.array([selector.unique_attribute for selector in selectors], pa.string()),
        "group_attributes": pa.array([list(selector.by) for selector in selectors], names),
        "cell_attributes": pa.array([list(selector.cell_by) for selector in selectors], names),
        "bucket": pa.array([selector.bucket for selector in selectors], pa.string()),
        "sibling": pa.array([selector.sibling for selector in selectors], pa.string()),
        "groups_max": pa.array([selector.groups_max for selector in selectors], pa.int64()),
        "way": pa.array([selector.way for selector in selectors], pa.string()),
    }
    measures = [selector.measure for selector in selectors]
    inner = [measure.per_bucket for measure in measures]
    roundings = [measure.rounding for measure in measures]
    steps = [None if rounding is None else rounding.step_billionths for rounding in roundings]
    columns |= {
        "operation_attribute": pa.array([measure.operation_attribute for measure in measures], pa.string()),
        "per_us": pa.array([PER_US[measure.per] if measure.per else None for measure in measures], pa.int64()),
        "percentile_billionths": pa.array([measure.percentile_billionths for measure in measures], pa.int64()),
        "bucket_value": pa.array([step and step.value for step in inner], pa.string()),
        "empty_is_zero": pa.array([step is not None and step.empty == "zero" for step in inner], pa.bool_()),
        "rounding": pa.array([rounding and rounding.mode for rounding in roundings], pa.string()),
        "rounding_step_text": pa.array([step and str(step) for step in steps], pa.string()),
    }
    register(engine, "selector_row", pa.table(columns))
    # Arrow has no whole numbers of 128 bits.
    engine.execute(read_sql("metering", "selector"))


def _register_filters(engine: duckdb.DuckDBPyConnection, selectors: Sequence[Selector]) -> None:
    rows: list[tuple[str | None, ...]] = [
        (selector.selector_set, selector.selector_id, attribute, value)
        for selector in selectors
        for attribute, values in selector.where
        for value in ((None,) if values is None else dict.fromkeys(values))
    ]
    _register_text(engine, "selector_filter", ("selector_set", "selector_id", "attribute", "value"), rows)


def _register_parts(engine: duckdb.DuckDBPyConnection, spans: Sequence[Span], selectors: Sequence[Selector]) -> None:
    import pyarrow as pa

    rows = [(selector.selector_set, selector.selector_id, part) for selector in selectors for part in selector.parts]
    _register_text(engine, "selector_part", ("selector_set", "selector_id", "part"), rows)
    buckets = [
        (part, timezone, bucket_start, number)
        for (part, timezone), (start, end) in sorted(_covered(spans, selectors).items())
        for number, bucket_start in enumerate(bucket_starts(part, timezone, start, end))
    ]
    columns = {
        "part": pa.array([row[0] for row in buckets], pa.string()),
        "timezone": pa.array([row[1] for row in buckets], pa.string()),
        "bucket_start": pa.array([row[2] for row in buckets], pa.timestamp("us", tz="UTC")),
        "number": pa.array([row[3] for row in buckets], pa.int64()),
        "day": pa.array([_day_of(row[2], row[1]) for row in buckets], pa.int64()),
    }
    register(engine, "time_bucket", pa.table(columns))
    lengths = {part: bucket_length_us(part) for _, _, part in rows if part not in ("", "carried", "before")}
    fixed = {part: length for part, length in lengths.items() if length is not None}
    columns = {"part": pa.array(fixed, pa.string()), "length_us": pa.array(fixed.values(), pa.int64())}
    register(engine, "part_length", pa.table(columns))


def _covered(spans: Sequence[Span], selectors: Sequence[Selector]) -> dict[tuple[str, str], tuple[datetime, datetime]]:
    """Return from when to when each calendar bucket is asked for in each zone."""
    asked: dict[str, set[str]] = {}
    for selector in selectors:
        asked.setdefault(selector.selector_set, set()).update(set(selector.parts) & set(CALENDAR_BUCKETS))
    covered: dict[tuple[str, str], tuple[datetime, datetime]] = {}
    for span in spans if any(asked.values()) else ():
        for part in asked.get(span.selector_set, ()):
            key = part, span.timezone
            start, end = covered.get(key, (span.service_start, span.service_end))
            covered[key] = min(start, span.service_start), max(end, span.service_end)
    return covered


def _register_days(engine: duckdb.DuckDBPyConnection, spans: Iterable[Span]) -> None:
    import pyarrow as pa

    # Most spans are the same month in the same zone.
    day_of = cache(_day_of)
    just_before = timedelta(microseconds=1)
    rows = []
    for span in spans:
        period_start, period_end = span.period_start or span.service_start, span.period_end or span.service_end
        first, last = day_of(span.service_start, span.timezone), day_of(span.service_end - just_before, span.timezone)
        full = day_of(period_end - just_before, span.timezone) - day_of(period_start, span.timezone) + 1
        rows.append((span.span_id, first, last, full))
    names = ("span_id", "first_day", "last_day", "full_days")
    register(
        engine,
        "span_day",
        pa.table({name: pa.array([row[at] for row in rows], pa.int64()) for at, name in enumerate(names)}),
    )


def _day_of(instant: datetime, timezone: str) -> int:
    """Return the local date of an instant as a number of days."""
    return instant.astimezone(zone(timezone)).toordinal()


def _register_states(engine: duckdb.DuckDBPyConnection, selectors: Sequence[Selector]) -> None:
    import pyarrow as pa

    by_order = {selector.meter for selector in selectors if selector.needs_order}
    by_time = {selector.meter for selector in selectors if selector.needs_time}
    meters = sorted(by_order | by_time)
    columns = {
        "meter": pa.array(meters, pa.string()),
        "by_order": pa.array([meter in by_order for meter in meters], pa.bool_()),
        "by_time": pa.array([meter in by_time for meter in meters], pa.bool_()),
    }
    register(engine, "meter_state", pa.table(columns))


def _register_text(
    engine: duckdb.DuckDBPyConnection, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | None]]
) -> None:
    import pyarrow as pa

    arrays = {column: pa.array([row[at] for row in rows], pa.string()) for at, column in enumerate(columns)}
    register(engine, name, pa.table(arrays))
