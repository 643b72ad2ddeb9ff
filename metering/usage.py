"""Step 6, aggregate: from the usage events of a snapshot to quantities per span, selector and group.

Enters: the data files of the lake, a cut, and two small tables that say what to ask:
    span      span_id, tenant_id, selector_set, service_start, service_end      whose use, from when to when (end open)
    selector  selector_set, selector_id, meter, aggregation, unique_attribute, group_attributes, and its filters
Leaves: USAGE, one row per (span, selector, group), with the quantity in units of the meter, exact.
Refuses: money, plans, providers. Rating passes subscriptions as spans and prices as selectors; entitlements and
reports pass their own. Every step is one statement in `metering/sql`, run in the order of `STEPS`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metering.engine import open_engine, read_sql

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    import duckdb
    import pyarrow as pa

EVIDENCE_STEPS = ("stored_event", "keyed_event", "duplicate", "stored_once", "corrected", "usage_event")
USAGE_STEPS = ("usage_state", "attribute_value", "selection", "usage")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A cut of the lake: for every producer, the last segment included. The same cut has the same `snapshot_id`."""

    cut: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, cut: Mapping[str, int]) -> Snapshot:
        return cls(tuple(sorted(cut.items())))

    @classmethod
    def from_json(cls, text: str) -> Snapshot:
        return cls(tuple((producer, segment) for producer, segment in json.loads(text)))

    def to_json(self) -> str:
        """Return canonical JSON: [[producer_id, last segment], ...], sorted by producer."""
        return json.dumps(self.cut, separators=(",", ":"), ensure_ascii=False)

    @property
    def snapshot_id(self) -> str:
        return "snap-" + hashlib.sha256(self.to_json().encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Span:
    """Whose use to add up, and from when to when: [service_start, service_end)."""

    span_id: int
    tenant_id: str
    selector_set: str
    service_start: datetime
    service_end: datetime


@dataclass(frozen=True, slots=True)
class Selector:
    """What to add up: a meter, its aggregation, filters on attributes, and the attributes to group by."""

    selector_set: str
    selector_id: str
    meter: str
    aggregation: str
    unique_attribute: str | None = None
    where: tuple[tuple[str, tuple[str, ...]], ...] = ()
    by: tuple[str, ...] = ()


def open_evidence(files: Sequence[str], snapshot: Snapshot, **settings: object) -> duckdb.DuckDBPyConnection:
    """Return an engine with the tables `stored_event`, `duplicate` and the view `usage_event` of a snapshot."""
    engine = open_engine(files, **settings)  # type: ignore[arg-type]
    load_evidence(engine, files, snapshot)
    return engine


def load_evidence(engine: duckdb.DuckDBPyConnection, files: Sequence[str], snapshot: Snapshot) -> None:
    """Load `stored_event`, `duplicate` and `usage_event`. Without files the tables are empty but typed.

    Where there are many files, duplicates are looked for only in those that are new since the last time; see identities.
    """
    import pyarrow as pa

    from metering.events import usage_event_schema
    from metering.identities import find_candidates

    producers, segments = zip(*snapshot.cut, strict=True) if snapshot.cut else ((), ())
    register(
        engine,
        "cut",
        pa.table({"producer_id": pa.array(producers, pa.string()), "last_segment": pa.array(segments, pa.int64())}),
    )
    if files:
        engine.read_parquet(list(files), hive_partitioning=False).create_view("data_file")
        engine.execute(read_sql("metering", "stored_event"))
    else:
        register(engine, "stored_event", usage_event_schema().empty_table())
    candidates = find_candidates(files)
    if candidates is None:
        engine.execute(read_sql("metering", "keyed_event"))
    else:
        register(engine, "candidate", candidates)
        engine.execute(read_sql("metering", "keyed_candidate"))
    for step in EVIDENCE_STEPS[2:]:
        engine.execute(read_sql("metering", step))


def load_events(engine: duckdb.DuckDBPyConnection, events: pa.Table) -> None:
    """Load usage events from memory as if they were stored; for previews and for rating pieces of a history."""
    register(engine, "stored_event", events)
    for step in EVIDENCE_STEPS[1:]:
        engine.execute(read_sql("metering", step))


def aggregate(engine: duckdb.DuckDBPyConnection, spans: Iterable[Span], selectors: Iterable[Selector]) -> None:
    """Make the table `usage` in the engine. Idempotent; replaces the one of an earlier call.

    Raises duckdb.OutOfRangeException where a sum leaves decimal(38, 9); rating turns it into AmountOverflow.
    """
    _register_questions(engine, list(spans), list(selectors))
    for step in USAGE_STEPS:
        engine.execute(read_sql("metering", step))


def register(engine: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> None:
    """Copy an Arrow table into the engine under a fixed name, replacing an earlier one."""
    engine.register("arriving", table)
    engine.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM arriving")
    engine.unregister("arriving")


def _register_questions(engine: duckdb.DuckDBPyConnection, spans: list[Span], selectors: list[Selector]) -> None:
    import pyarrow as pa

    instant = pa.timestamp("us", tz="UTC")
    register(
        engine,
        "span",
        pa.table(
            {
                "span_id": pa.array([span.span_id for span in spans], pa.int64()),
                "tenant_id": pa.array([span.tenant_id for span in spans], pa.string()),
                "selector_set": pa.array([span.selector_set for span in spans], pa.string()),
                "service_start": pa.array([span.service_start for span in spans], instant),
                "service_end": pa.array([span.service_end for span in spans], instant),
            }
        ),
    )
    register(
        engine,
        "selector",
        pa.table(
            {
                "selector_set": pa.array([selector.selector_set for selector in selectors], pa.string()),
                "selector_id": pa.array([selector.selector_id for selector in selectors], pa.string()),
                "meter": pa.array([selector.meter for selector in selectors], pa.string()),
                "aggregation": pa.array([selector.aggregation for selector in selectors], pa.string()),
                "unique_attribute": pa.array([selector.unique_attribute for selector in selectors], pa.string()),
                "group_attributes": pa.array([list(selector.by) for selector in selectors], pa.list_(pa.string())),
            }
        ),
    )
    filters = [
        (selector.selector_set, selector.selector_id, attribute, value)
        for selector in selectors
        for attribute, values in selector.where
        for value in dict.fromkeys(values)
    ]
    columns = ("selector_set", "selector_id", "attribute", "value")
    register(
        engine,
        "selector_filter",
        pa.table({name: pa.array([row[index] for row in filters], pa.string()) for index, name in enumerate(columns)}),
    )
