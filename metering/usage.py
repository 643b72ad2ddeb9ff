"""Step 6, aggregate: from the usage events of a snapshot to quantities per span, selector and group.

Enters: the data files of the lake, a cut, and the spans and selectors that say what to ask (metering.questions).
Leaves: USAGE, one row per (span, selector, group, cell), with the quantity in units of the meter, exact.
Refuses: money, plans, providers. Rating passes subscriptions as spans and prices as selectors; entitlements and
reports pass their own. Every step is one statement in `metering/sql`, run in the order of `STEPS`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metering.buckets import CALENDAR_BUCKETS
from metering.engine import fetch, open_engine, read_sql
from metering.errors import TooManyGroups
from metering.questions import Selector, Span, register, register_questions

__all__ = [
    "Selector", "Snapshot", "Span", "aggregate", "load_events", "load_evidence", "load_states", "open_evidence",
    "open_evidence_of", "register",
]  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    import duckdb
    import pyarrow as pa

    from metering.rollups import Rollups

EVIDENCE_STEPS = (
    "stored_event",
    "keyed_event",
    "duplicate",
    "stored_once",
    "corrected",
    "late_event",
    "usage_event",
    "state_event",
)
STATE_STEPS = (
    "added_state_none", "rollup_state_none", "rollup_kind_none", "added_state", "ordered_state_none", "ordered_state",
    "usage_state",
)  # fmt: skip
USAGE_STEPS = (
    "divide_half_away", "from_billionths", "round_quantity",
    "part_state", "part_state_calendar", "part_state_fixed", "part_state_carried", "part_state_before",
    "state_kind", "attribute_value", "selection", "selected",
    "answer", "answer_ordered", "answer_distinct", "answer_operations", "answer_level", "answer_sum_by_day",
    "answer_unique_by_day", "span_bucket", "answer_bucketed",
)  # fmt: skip
# What only some questions need is done only for them: by the parts of time that they read, and by their way.
STEP_PARTS = {
    "part_state_calendar": frozenset(CALENDAR_BUCKETS),
    "part_state_carried": frozenset({"carried"}),
    "part_state_before": frozenset({"before"}),
}
STEP_WAYS = {
    "answer_ordered": "ordered",
    "answer_distinct": "distinct",
    "answer_operations": "operations",
    "answer_level": "level",
    "answer_sum_by_day": "sum_by_day",
    "answer_unique_by_day": "unique_by_day",
    "span_bucket": "bucketed",
    "answer_bucketed": "bucketed",
}


# So few tenants are looked up in the data files, and so few events of theirs are held in memory.
FEW_TENANTS = 100
FEW_EVENTS = 1_000_000


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


def open_evidence(files: Sequence[str], snapshot: Snapshot, **settings: object) -> duckdb.DuckDBPyConnection:
    """Return an engine with the tables `stored_event`, `duplicate` and the view `usage_event` of a snapshot."""
    engine = open_engine(files, **settings)  # type: ignore[arg-type]
    load_evidence(engine, files, snapshot)
    return engine


def open_evidence_of(
    tenants: Collection[str], files: Sequence[str], snapshot: Snapshot
) -> duckdb.DuckDBPyConnection | None:
    """Return an engine with the evidence of a few tenants alone, or None where they or their events are not few.

    What counts for a tenant is said by its own events: duplicates and corrections are of one tenant. Data files are in the
    order of tenants, so that little of them is read.
    """
    from duckdb import ColumnExpression, ConstantExpression

    from metering.changes import register_cut

    if not files or not 0 < len(tenants) <= FEW_TENANTS:
        return None
    engine = open_engine(files)
    register_cut(engine, "cut", snapshot)
    is_of_them = ColumnExpression("tenant_id").isin(*map(ConstantExpression, sorted(tenants)))
    engine.read_parquet(list(files), hive_partitioning=False).filter(is_of_them).create_view("data_file")
    engine.execute(read_sql("metering", "stored_event"))
    events = fetch(engine, f"FROM stored_event LIMIT {FEW_EVENTS + 1}")
    if events.num_rows > FEW_EVENTS:
        engine.close()
        return None
    engine.execute("DROP VIEW stored_event")
    load_events(engine, events)
    return engine


def load_evidence(engine: duckdb.DuckDBPyConnection, files: Sequence[str], snapshot: Snapshot) -> None:
    """Load `stored_event`, `duplicate` and `usage_event`. Without files the tables are empty but typed.

    No event is asked for corrections where the facts of the data files say that there are none.
    """
    import pyarrow.compute as pc

    from metering.file_facts import file_facts

    corrects = True
    if not load_duplicates(engine, files, snapshot):
        corrects = bool(pc.sum(file_facts(files)["corrections"]).as_py())
    for step in EVIDENCE_STEPS[3:]:
        engine.execute(read_sql("metering", "corrected_none" if step == "corrected" and not corrects else step))


def load_duplicates(engine: duckdb.DuckDBPyConnection, files: Sequence[str], snapshot: Snapshot) -> bool:
    """Load `stored_event` and `duplicate`; return whether all events were looked through for that.

    Where there are many files, duplicates are looked for only in those that are new since the last time; see identities.
    """
    from metering.changes import register_cut
    from metering.events import usage_event_schema
    from metering.identities import find_candidates

    register_cut(engine, "cut", snapshot)
    if files:
        engine.read_parquet(list(files), hive_partitioning=False).create_view("data_file")
        engine.execute(read_sql("metering", "stored_event"))
    else:
        register(engine, "stored_event", usage_event_schema().empty_table())
    candidates = find_candidates(files)
    if candidates is not None:
        register(engine, "candidate", candidates)
    for step in ("keyed_event" if candidates is None else "keyed_candidate", "duplicate"):
        engine.execute(read_sql("metering", step))
    return candidates is None


def load_events(engine: duckdb.DuckDBPyConnection, events: pa.Table) -> None:
    """Load usage events from memory as if they were stored; for previews and for rating pieces of a history."""
    register(engine, "stored_event", events)
    corrects = events["correction"].null_count < events.num_rows
    for step in EVIDENCE_STEPS[1:]:
        engine.execute(read_sql("metering", "corrected_none" if step == "corrected" and not corrects else step))


def aggregate(
    engine: duckdb.DuckDBPyConnection,
    spans: Iterable[Span],
    selectors: Iterable[Selector],
    *,
    rollups: Rollups | None = None,
) -> None:
    """Make the table `usage` in the engine. Idempotent; replaces the one of an earlier call.

    With `rollups` states that were worked out before are used, where they fit; the usage is the same.
    Raises TooManyGroups where a selector finds more than it declares; duckdb.OutOfRangeException where a sum leaves
    decimal(38, 9), which rating turns into AmountOverflow.
    """
    asked = list(selectors)
    load_states(engine, spans, asked, rollups=rollups)
    for step in USAGE_STEPS:
        if _is_needed(step, asked):
            engine.execute(read_sql("metering", step))
    _check_groups(engine, asked)
    engine.execute(read_sql("metering", "usage"))


def load_states(
    engine: duckdb.DuckDBPyConnection,
    spans: Iterable[Span],
    selectors: Iterable[Selector],
    *,
    rollups: Rollups | None = None,
) -> None:
    """Make the view `usage_state`: the states of each span's events per meter and attributes; see aggregate."""
    asked, askers = list(selectors), spans if isinstance(spans, Sequence) else list(spans)
    register_questions(engine, askers, asked)
    for step in STATE_STEPS:
        if step == "added_state" and rollups is not None:
            # Where nobody asks, nothing is looked up.
            if len(askers):
                rollups.load_states(engine)
        elif _is_needed(step, asked):
            engine.execute(read_sql("metering", step))


def _is_needed(step: str, selectors: Sequence[Selector]) -> bool:
    if step == "ordered_state":
        return any(selector.needs_order or selector.needs_time for selector in selectors)
    if step in STEP_WAYS:
        return any(selector.way == STEP_WAYS[step] for selector in selectors)
    if step == "part_state_fixed":
        known = {"", "carried", "before", *CALENDAR_BUCKETS}
        return any(part not in known for selector in selectors for part in selector.parts)
    if step in STEP_PARTS:
        return any(part in STEP_PARTS[step] for selector in selectors for part in selector.parts)
    return True


def _check_groups(engine: duckdb.DuckDBPyConnection, selectors: Sequence[Selector]) -> None:
    if all(selector.groups_max is None for selector in selectors):
        return
    found = engine.execute(read_sql("metering", "too_many_groups")).fetchall()
    for tenant_id, selector_id, groups_max, groups in found:
        raise TooManyGroups(
            f"{selector_id} finds {groups} groups in the use of tenant {tenant_id}, more than its groups_max of {groups_max}; "
            "nothing was left out: raise groups_max, or group by an attribute with fewer values",
            tenant_id=tenant_id, selector_id=selector_id, groups=groups, groups_max=groups_max,
        )  # fmt: skip
