"""Which tenants' usage may differ between two snapshots: for those who keep something per tenant and do only what is new.

Enters: the data files of the lake now, and two cuts. Leaves: the tenants of whom one cut has an event that the other has not.
Refuses: to know what was kept, under which terms, or why.

Why that is enough: usage is a pure function of spans, selectors and the tenant's events in the cut. Duplicates and
corrections never cross tenants, compaction never changes what a cut means, and a snapshot's id names its cut. So a tenant
who has the same events in both has the same usage in both, whatever came late, twice or void for anybody else. Who keeps
what a tenant's usage is worth names it by `Snapshot.snapshot_id` and by all that is not usage: spans, terms, limits.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from metering.engine import fetch, open_engine, read_sql
from metering.file_facts import file_facts

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb
    import pyarrow as pa

    from metering.usage import Snapshot


def changed_tenants(
    files: Sequence[str], before: Snapshot, now: Snapshot, *, scan_bytes_max: int | None = None
) -> frozenset[str]:
    """Return every tenant whose usage may differ between two snapshots; all others have, row for row, the same.

    `files` are all data files of the lake, verified. Only those are read that hold a segment which one of the two has and
    the other has not: the files of the last hour, not of the month. Symmetric: either snapshot may be the older one.
    Exact over late events, voids, replacements, duplicates and compaction; terms and late limits are the caller's to compare.
    """
    if before == now:
        return frozenset()
    facts = file_facts(files, scan_bytes_max=scan_bytes_max)
    differing = _differing(facts, before, now)
    chosen = [file for file in files if Path(file).name in differing]
    if not chosen:
        return frozenset()
    engine = open_engine(chosen)
    try:
        engine.read_parquet(chosen, hive_partitioning=False).create_view("data_file")
        register_cut(engine, "cut", now)
        register_cut(engine, "cut_before", before)
        return frozenset(fetch(engine, read_sql("metering", "changed_tenant"))["tenant_id"].to_pylist())
    finally:
        engine.close()


def register_cut(engine: duckdb.DuckDBPyConnection, name: str, snapshot: Snapshot) -> None:
    """Make a table of a snapshot's cut: one row per producer, with the last segment included."""
    import pyarrow as pa

    from metering.questions import register

    producers, segments = zip(*snapshot.cut, strict=True) if snapshot.cut else ((), ())
    columns = {"producer_id": pa.array(producers, pa.string()), "last_segment": pa.array(segments, pa.int64())}
    register(engine, name, pa.table(columns))


def _differing(facts: pa.Table, before: Snapshot, now: Snapshot) -> set[str]:
    """Return the data files that hold a segment between the two cuts, above the lower and not above the upper."""
    last_before, last_now = dict(before.cut), dict(now.cut)
    found = set()
    for fact in facts.to_pylist():
        ends = [cut.get(fact["producer_id"], -1) for cut in (last_before, last_now)]
        if fact["last_segment"] > min(ends) and fact["first_segment"] <= max(ends):
            found.add(fact["file_name"])
    return found
