"""One way of reconciling, alone in its process: python -m benchmarks.reconciliation_child WAY FOLDER prints what it found.

The libraries are imported before the clock starts; reading the files, comparing and counting are measured, in processor time of
all threads: on a machine of its own nothing takes longer than that.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

NAMES = ("adapter", "document_id", "line_id")


def tallybook(folder: Path) -> Callable[[], dict[str, int]]:
    """Match by the statement that reconciliation uses, both files hashed as kept lists are."""
    import duckdb
    import pyarrow as pa
    import pyarrow.parquet

    from billing_adapters.reconciliation.matching import keyed, match
    from metering.engine import open_engine

    duckdb.connect().execute("SELECT 1").fetchall()

    def side(name: str) -> pa.Table:
        path = folder / name
        hashlib.sha256(path.read_bytes()).hexdigest()
        table = pyarrow.parquet.read_table(path)
        rows = table.num_rows
        return pa.table(
            {
                "key": keyed(table, NAMES),
                "currency": table["currency"],
                "detail_rows": pa.repeat(1, rows),
                "quantity": pa.nulls(rows, pa.decimal128(38, 12)),
                "amount": table["amount"],
                "occurred_at": pa.nulls(rows, pa.timestamp("us", tz="UTC")),
            }
        )

    def work() -> dict[str, int]:
        engine = open_engine()
        counts = match(
            engine, side("ours.parquet"), side("theirs.parquet"), settled_before=datetime(2026, 11, 2, tzinfo=UTC)
        )
        engine.close()
        return {count.status: count.keys for count in counts}

    return work


def polars(folder: Path) -> Callable[[], dict[str, int]]:
    import polars as pl

    def work() -> dict[str, int]:
        ours = pl.read_parquet(folder / "ours.parquet")
        theirs = pl.read_parquet(folder / "theirs.parquet")
        joined = ours.join(theirs, on=[*NAMES, "currency"], how="full", coalesce=True)
        status = (
            pl.when(pl.col("amount_right").is_null())
            .then(pl.lit("only_ours"))
            .when(pl.col("amount").is_null())
            .then(pl.lit("only_theirs"))
            .when(pl.col("amount") == pl.col("amount_right"))
            .then(pl.lit("match"))
            .otherwise(pl.lit("amount_differs"))
        )
        return dict(joined.select(status.alias("status")).group_by("status").len().iter_rows())

    return work


def pandas(folder: Path) -> Callable[[], dict[str, int]]:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet

    def side(name: str) -> pd.DataFrame:
        table = pyarrow.parquet.read_table(folder / name)
        cents = pc.multiply(
            table["amount"].cast(pa.decimal128(18, 2)), pa.scalar(Decimal(100), pa.decimal128(3, 0))
        ).cast(pa.int64())
        return table.set_column(table.schema.get_field_index("amount"), "amount", cents).to_pandas()

    def work() -> dict[str, int]:
        joined = side("ours.parquet").merge(
            side("theirs.parquet"), on=[*NAMES, "currency"], how="outer", suffixes=("", "_theirs")
        )
        conditions = [
            joined["amount_theirs"].isna(),
            joined["amount"].isna(),
            joined["amount"] == joined["amount_theirs"],
        ]
        status = np.select(conditions, ["only_ours", "only_theirs", "match"], "amount_differs")
        values, counts = np.unique(status, return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))

    return work


def trailers(folder: Path) -> Callable[[], dict[str, Any]]:
    """Add up the trailers by the statement that reconciliation uses."""
    import pyarrow as pa
    import pyarrow.dataset

    from billing_adapters.reconciliation.equations import in_flight_schema
    from metering.engine import fetch, open_engine, read_sql
    from metering.questions import register

    def work() -> dict[str, Any]:
        engine = open_engine()
        rows = pyarrow.dataset.dataset(sorted(folder.glob("trailers-*.parquet"))).to_table()
        register(engine, "segment_trailer", rows)
        register(engine, "in_flight_total", in_flight_schema().empty_table())
        register(
            engine,
            "snapshot_cut",
            pa.table({"producer_id": ["producer"], "last_segment": pa.array([1 << 40], pa.int64())}),
        )
        dates = {"first_date": date(2026, 10, 1), "end_date": date(2026, 11, 1)}
        engine.execute(read_sql("billing_adapters.reconciliation", "promised"), dates)
        return _summed(
            fetch(
                engine,
                "SELECT tenant_id, meter, sum(rows)::BIGINT AS rows, sum(quantity) AS quantity FROM promised GROUP BY ALL",
            )
        )

    return work


def scan(folder: Path) -> Callable[[], dict[str, Any]]:
    from metering.engine import fetch, open_engine

    def work() -> dict[str, Any]:
        files = [str(path) for path in sorted(folder.glob("events-*.parquet"))]
        engine = open_engine(files)
        statement = """
            SELECT tenant_id, meter, count(*) AS rows, sum(quantity)::DECIMAL(38, 9) AS quantity
            FROM read_parquet($files)
            WHERE event_time >= TIMESTAMPTZ '2026-10-01 00:00:00+00' AND event_time < TIMESTAMPTZ '2026-11-01 00:00:00+00'
            GROUP BY ALL
        """
        return _summed(fetch(engine, statement, {"files": files}))

    return work


def _summed(table: Any) -> dict[str, Any]:
    rows = sorted((row["tenant_id"], row["meter"], row["rows"], f"{row['quantity']:f}") for row in table.to_pylist())
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    return {"accounts": len(rows), "rows": sum(row[2] for row in rows), "sha256": digest}


WAYS: dict[str, Callable[[Path], Callable[[], dict[str, Any]]]] = {
    "tallybook": tallybook,
    "polars": polars,
    "pandas": pandas,
    "trailers": trailers,
    "scan": scan,
}

if __name__ == "__main__":
    task = WAYS[sys.argv[1]](Path(sys.argv[2]))
    begun = time.process_time()
    found = task()
    seconds = time.process_time() - begun
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"answer": found, "seconds": seconds, "mib": mib}))
