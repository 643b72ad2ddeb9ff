"""What usage is asked: spans and selectors, and the small tables that the SQL reads them from.

Enters: `Span`s (whose use, from when to when) and `Selector`s (what to add up). Leaves: the tables
    span             one row per span
    selector         one row per selector, in the order given (`position`)
    selector_filter  one row per (selector, attribute, value); value null: any value
    selector_part    one row per (selector, part of time whose states it reads); '' is the whole span
    time_bucket      one row per (part, timezone, bucket start) of the calendar buckets that are asked for
Refuses: questions without an answer, as BadSelector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from metering.buckets import CALENDAR_BUCKETS, bucket_starts
from metering.errors import BadSelector

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import duckdb
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Span:
    """Whose use to add up, and from when to when: [service_start, service_end). Buckets are cut in `timezone`.

    `period_start` and `period_end` are the full billing period of which the service period is a part; left out, the same.
    """

    span_id: int
    tenant_id: str
    selector_set: str
    service_start: datetime
    service_end: datetime
    timezone: str = "UTC"
    period_start: datetime | None = None
    period_end: datetime | None = None


@dataclass(frozen=True, slots=True)
class Selector:
    """What to add up: a meter, its aggregation, filters on attributes, the attributes to group by, and what splits lines.

    `where` holds (attribute, values) pairs, all of which must match; values None: any value, the attribute is present.
    `cell_by` splits each group into cells by attributes, `bucket` (hour, day, week, month) by time; not both.
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

    def __post_init__(self) -> None:
        if self.bucket is not None and self.bucket not in CALENDAR_BUCKETS:
            raise BadSelector(
                f"{self.selector_id} asks for buckets of {self.bucket!r}; ask for one of {', '.join(CALENDAR_BUCKETS)}"
            )
        if self.bucket is not None and self.cell_by:
            raise BadSelector(
                f"{self.selector_id} splits by {', '.join(self.cell_by)} and by {self.bucket}; a cell is one of both"
            )

    @property
    def parts(self) -> tuple[str, ...]:
        """Return the parts of time whose states are merged; '' is the whole span."""
        return ("" if self.bucket is None else self.bucket,)


def register(engine: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> None:
    """Copy an Arrow table into the engine under a fixed name, replacing an earlier one."""
    engine.register("arriving", table)
    engine.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM arriving")
    engine.unregister("arriving")


def register_questions(engine: duckdb.DuckDBPyConnection, spans: Sequence[Span], selectors: Sequence[Selector]) -> None:
    """Make the tables that the module's head lists."""
    _register_spans(engine, spans)
    _register_selectors(engine, selectors)
    _register_filters(engine, selectors)
    _register_parts(engine, spans, selectors)


def _register_spans(engine: duckdb.DuckDBPyConnection, spans: Sequence[Span]) -> None:
    import pyarrow as pa

    instant = pa.timestamp("us", tz="UTC")
    columns = {
        "span_id": pa.array([span.span_id for span in spans], pa.int64()),
        "tenant_id": pa.array([span.tenant_id for span in spans], pa.string()),
        "selector_set": pa.array([span.selector_set for span in spans], pa.string()),
        "service_start": pa.array([span.service_start for span in spans], instant),
        "service_end": pa.array([span.service_end for span in spans], instant),
        "timezone": pa.array([span.timezone for span in spans], pa.string()),
        "period_start": pa.array([span.period_start or span.service_start for span in spans], instant),
        "period_end": pa.array([span.period_end or span.service_end for span in spans], instant),
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
    }
    register(engine, "selector", pa.table(columns))


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
        (part, timezone, bucket_start)
        for (part, timezone), (start, end) in sorted(_covered(spans, selectors).items())
        for bucket_start in bucket_starts(part, timezone, start, end)
    ]
    columns = {
        "part": pa.array([row[0] for row in buckets], pa.string()),
        "timezone": pa.array([row[1] for row in buckets], pa.string()),
        "bucket_start": pa.array([row[2] for row in buckets], pa.timestamp("us", tz="UTC")),
    }
    register(engine, "time_bucket", pa.table(columns))


def _covered(spans: Sequence[Span], selectors: Sequence[Selector]) -> dict[tuple[str, str], tuple[datetime, datetime]]:
    """Return from when to when each calendar bucket is asked for in each zone."""
    asked: dict[str, set[str]] = {}
    for selector in selectors:
        asked.setdefault(selector.selector_set, set()).update(set(selector.parts) & set(CALENDAR_BUCKETS))
    covered: dict[tuple[str, str], tuple[datetime, datetime]] = {}
    for span in spans:
        for part in asked.get(span.selector_set, ()):
            key = part, span.timezone
            start, end = covered.get(key, (span.service_start, span.service_end))
            covered[key] = min(start, span.service_start), max(end, span.service_end)
    return covered


def _register_text(
    engine: duckdb.DuckDBPyConnection, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | None]]
) -> None:
    import pyarrow as pa

    arrays = {column: pa.array([row[at] for row in rows], pa.string()) for at, column in enumerate(columns)}
    register(engine, name, pa.table(arrays))
