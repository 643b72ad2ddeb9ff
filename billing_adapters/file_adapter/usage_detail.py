"""The file of every usage event: what became of it, and on which line; part by part, so that memory does not grow with it.

Enters: an engine in which the last close of a run was rated, the lines of the run, dead letters, the cut of the close before.
Leaves: tables in the order of the file, and Parquet. Refuses: CSV and workbooks of the whole; a slice of one tenant is written
as CSV.

The worth of one event is not in it: in tiers, packages and above minimums it depends on all the others. `line_id` leads to the
line, and `charges` has the line's exact amounts by tier.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO

from billing_adapters.file_adapter.columns import arrow_schema
from billing_adapters.file_adapter.formats import PARQUET_SETTINGS, csv_head, csv_rows
from billing_adapters.file_adapter.shapes import USAGE_DETAIL
from metering.changes import register_cut
from metering.engine import fetch, read_sql
from metering.questions import register
from metering.totals import sums_by

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

    import duckdb
    import pyarrow as pa

    from metering.periods import WallPeriod
    from metering.usage import Snapshot
    from rating.invoice import Invoice

FILE = "usage_detail.parquet"
# About so many events are held at once; the bytes of a row group are a part of these.
ROWS_AT_ONCE = 500_000
_PACKAGE = "billing_adapters.file_adapter"
_WRITER = {name: value for name, value in PARQUET_SETTINGS.items() if name != "row_group_size"}


def detail_tables(
    engine: duckdb.DuckDBPyConnection,
    wall: WallPeriod,
    invoices: Iterable[Invoice],
    *,
    tenants: Collection[str],
    dead_letters: pa.Table,
    seen: Snapshot,
    rows_at_once: int = ROWS_AT_ONCE,
) -> Iterator[pa.Table]:
    """Yield the rows of USAGE_DETAIL without `run_id`, in order, events first and dead letters after them.

    `engine`: a close was rated in it (`rating.run.rated`). `tenants`: all that accounts list. `seen`: what the close before the
    run saw.
    """
    _register(engine, wall, invoices, tenants)
    register_cut(engine, "seen", seen)
    register(engine, "dead_letter_row", dead_letters)
    for step in ("detail_price", "detail_event"):
        engine.execute(read_sql(_PACKAGE, step))
    parts = fetch(engine, read_sql(_PACKAGE, "detail_part"), {"rows": rows_at_once}).to_pylist()
    for part in parts:
        yield fetch(engine, read_sql(_PACKAGE, "usage_detail"), part)
    yield fetch(engine, read_sql(_PACKAGE, "detail_dead_letter"))


def write_detail(tables: Iterable[pa.Table], run_id: str, file: BinaryIO) -> tuple[int, dict[str, list[Any]]]:
    """Write tables as one Parquet file, each as it comes; return how many rows, and the quantities of each meter by table."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    schema = arrow_schema(USAGE_DETAIL)
    rows, sums = 0, dict[str, list[Any]]()
    with pq.ParquetWriter(file, schema, **_WRITER) as writer:
        for table in tables:
            run = pa.array([run_id] * table.num_rows, pa.string())
            whole = table.add_column(0, "run_id", run).select(schema.names).cast(schema)
            writer.write_table(whole, row_group_size=PARQUET_SETTINGS["row_group_size"])
            rows += whole.num_rows
            for row in sums_by(whole.filter(pc.is_valid(whole["meter"])), ["meter"], "quantity"):
                if row["sum"] is not None:
                    sums.setdefault(row["meter"], []).append(row["sum"])
    return rows, sums


def write_slice(folder: Path, file: BinaryIO, *, tenant: str, meter: str | None = None) -> int:
    """Write the rows of one tenant of a published run as CSV, neutralised as all CSV is; return how many."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(folder / FILE) as source:
        column = source.schema_arrow.get_field_index("tenant_id")
        csv_head(USAGE_DETAIL, file)
        written = 0
        for at in range(source.num_row_groups):
            told = source.metadata.row_group(at).column(column).statistics
            if told is not None and told.has_min_max and not told.min <= tenant <= told.max:
                continue
            table = source.read_row_group(at)
            table = table.filter(pc.equal(table["tenant_id"], tenant))
            table = table if meter is None else table.filter(pc.equal(table["meter"], meter))
            csv_rows(USAGE_DETAIL, table, file)
            written += table.num_rows
    return written


def _register(
    engine: duckdb.DuckDBPyConnection, wall: WallPeriod, invoices: Iterable[Invoice], tenants: Collection[str]
) -> None:
    import pyarrow as pa

    text, instant = pa.string(), pa.timestamp("us", tz="UTC")
    kinds = {"subscription_id": text, "period_start": instant, "service_start": instant, "price_id": text, "group_key": text,
             "line_id": text}  # fmt: skip
    schema = pa.schema(list(kinds.items()))
    lines = [{name: getattr(line, name) for name in kinds} for one in invoices for line in one.lines]
    register(engine, "detail_line", pa.Table.from_pylist(lines, schema=schema))
    register(engine, "detail_tenant", pa.table({"tenant_id": pa.array(sorted(tenants), text)}))
    current = fetch(
        engine, "SELECT min(service_start) AS first, max(service_end) AS last FROM billing_span WHERE is_current"
    )
    (span,) = current.to_pylist()
    starts, ends = wall.start.replace(tzinfo=UTC), wall.end.replace(tzinfo=UTC)
    bounds: list[datetime] = [min(starts, span["first"] or starts), max(ends, span["last"] or ends)]
    columns = {name: pa.array([at], instant) for name, at in zip(("starts_at", "ends_at"), bounds, strict=True)}
    register(engine, "detail_span", pa.table(columns))
