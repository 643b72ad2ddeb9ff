"""What rollups hold, and the same figures counted again in the usage events that they were made of.

Enters: the data files of a lake and the bounds of a period. Leaves: the inputs `rollup_total` and `rollup_source_total`, one row
per (tenant, meter), or nothing where the lake has no rollups. Refuses: to make rollups, and to believe one by its name.

Both are of whole months of UTC, those that the period touches: no cell of a rollup reaches over the end of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metering.engine import fetch, open_engine, read_sql
from metering.periods import add_months
from metering.rollups import Rollups

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import pyarrow as pa


def rolled_up(files: Sequence[str], start: datetime, end: datetime) -> dict[str, pa.Table]:
    """Return both inputs for the months of UTC that `[start, end)` touches. Absent: no invoice was made from a rollup."""
    kept = Rollups.of(files)
    whole = [] if kept is None else kept.whole()
    if kept is None or not whole:
        return {}
    first = start.replace(day=1)
    last = end if end.day == 1 else add_months(end.replace(day=1), 1)
    values: dict[str, object] = {"start_instant": first, "end_instant": last}
    covered = sorted(frozenset[str]().union(*(one.covers for one in whole)))
    sources = {
        "rollup_row": [str(kept.folder / one.states) for one in whole],
        "rollup_out": [str(kept.folder / one.left_out) for one in whole],
        "rollup_file": [str(kept.paths[name]) for name in covered],
    }
    engine = open_engine([path for paths in sources.values() for path in paths])
    try:
        for name, paths in sources.items():
            engine.read_parquet(paths, hive_partitioning=False).create_view(name)
        return {
            name: fetch(engine, read_sql("billing_adapters.reconciliation", name), values)
            for name in ("rollup_total", "rollup_source_total")
        }
    finally:
        engine.close()
