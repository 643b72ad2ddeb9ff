"""What keeping the lake in order costs: files and commits of a busy day, and one more hour of idempotency keys.

Enters: nothing. Leaves: counts before and after `maintain`, and the cost of finding the duplicates of a lake after one
more hour has come, as a ratio to looking through all stored keys again, in the same run and over the same files.
A new process hashes what it was left before it trusts it; one that goes on does not. Both are measured.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.figures import Figure, figure
from metering.batch import SegmentBatch
from metering.engine import open_engine, read_sql
from metering.events import dead_letter_schema, usage_event_schema
from metering.identities import find_candidates
from metering.lake import Lake
from metering.totals import control_totals
from metering.usage import Snapshot, register

START = datetime(2026, 10, 1, tzinfo=UTC)
DUPLICATES_PER_THOUSAND = 1
HOURS = 720
ROWS_PER_COMMIT = 600_000

_COLD = """
import sys, time
from metering.identities import find_candidates
began = time.perf_counter()
find_candidates(sys.argv[1:], scan_bytes_max=0)
print(time.perf_counter() - began)
"""


def run(quick: bool) -> list[Figure]:
    """Return the figures of this benchmark. `quick`: few commits, and a hundred-and-fortieth of the keys."""
    with tempfile.TemporaryDirectory() as folder:
        return [
            *_busy_day(Path(folder) / "day", 50 if quick else 288),
            *_keys(Path(folder), 720_000 * (1 if quick else 140)),
        ]


def _busy_day(root: Path, commits: int) -> list[Figure]:
    lake = Lake(root)
    for number in range(commits):
        lake.append(
            [
                _batch(
                    f"p{number % 4}",
                    number // 4 + 1,
                    number * 100,
                    100,
                    START + timedelta(seconds=86_400 * number // commits),
                )
            ]
        )
    began = time.perf_counter()
    done = lake.maintain(retention_hours=0)
    first_s = time.perf_counter() - began
    began = time.perf_counter()
    lake.maintain(retention_hours=0)
    second_s = time.perf_counter() - began
    note = f"a day of {commits} commits of 100 events, by four producers in turn"
    return [
        figure("data files before maintain", done.files_before, "files", None, None, note),
        figure("data files after maintain", done.files_after, "files", done.files_before, "before", ""),
        figure("commit files before maintain", done.commits_before, "files", None, None, "in the logs of all tables"),
        figure("commit files after maintain", done.commits_after, "files", done.commits_before, "before", ""),
        figure("maintain", first_s, "s", None, None, f"{done.rewritten} files rewritten, {done.deleted} deleted"),
        figure("maintain again", second_s, "s", first_s, "maintain", "nothing is new"),
    ]


def _keys(folder: Path, count: int) -> list[Figure]:
    """Return what one more hour costs: a 720th of the keys, one in a thousand of them seen before."""
    lake = Lake(folder / "keys")
    segments = 24 * max(1, count // (24 * ROWS_PER_COMMIT))
    per_segment = count // segments
    for number in range(segments):
        begun = START + timedelta(days=24 * number // segments, seconds=number)
        lake.append([_batch("p", number + 1, number * per_segment, per_segment, begun)])
    began = time.perf_counter()
    find_candidates(_paths(lake), scan_bytes_max=0)
    build_s = time.perf_counter() - began
    hour = _batch(
        "p", segments + 1, count, count // HOURS, START + timedelta(days=25), repeats_from=count - per_segment
    )
    lake.append([hour])
    files = _paths(lake)
    began = time.perf_counter()
    candidates = find_candidates(files, scan_bytes_max=0)
    found = _duplicates(lake, files, candidates)
    hour_s = time.perf_counter() - began
    began = time.perf_counter()
    expected = _duplicates(lake, files, None)
    scan_s = time.perf_counter() - began
    if found != expected or not found:
        raise RuntimeError(f"{found} duplicates found, {expected} there")
    began = time.perf_counter()
    find_candidates(files, scan_bytes_max=0)
    again_s = time.perf_counter() - began
    lake.append([_batch("p", segments + 2, 2 * count, count // HOURS, START + timedelta(days=26), repeats_from=count)])
    cold = subprocess.run([sys.executable, "-c", _COLD, *_paths(lake)], capture_output=True, text=True, check=True)
    against = "full scan"
    return [
        figure(
            "duplicates by full scan",
            scan_s,
            "s",
            None,
            None,
            f"{count:,} keys stored, {expected:,} duplicates; may use 6 GB",
        ),
        figure("first build of the identities", build_s, "s", scan_s, against, f"{count:,} keys, once"),
        figure("one more hour", hour_s, "s", scan_s, against, f"{count // HOURS:,} new keys; same duplicates found"),
        figure("one more hour, new process", float(cold.stdout), "s", scan_s, against, "hashes the stored runs first"),
        figure("nothing new", again_s, "s", scan_s, against, ""),
    ]


def _duplicates(lake: Lake, files: list[str], candidates: pa.Table | None) -> int:
    engine = _roomy_engine(lake.root) if candidates is None else open_engine(files)
    try:
        producers, segments = zip(*Snapshot.of(lake.cut()).cut, strict=True)
        register(engine, "cut", pa.table({"producer_id": pa.array(producers), "last_segment": pa.array(segments)}))
        if candidates is None:
            engine.read_parquet(files, hive_partitioning=False).create_view("data_file")
            engine.execute(read_sql("metering", "stored_event"))
            engine.execute(read_sql("metering", "keyed_event"))
        else:
            register(engine, "candidate", candidates)
            engine.execute(read_sql("metering", "keyed_candidate"))
        engine.execute(read_sql("metering", "duplicate"))
        found: list[tuple[int]] = engine.execute("SELECT count(*) FROM duplicate").fetchall()
        return found[0][0]
    finally:
        engine.close()


def _roomy_engine(folder: Path) -> duckdb.DuckDBPyConnection:
    """Return an engine that may spill to the disk: a scan of everything does not fit the 4 GB of Tallybook's own."""
    engine = duckdb.connect(":memory:")
    for setting in ("memory_limit = '6GB'", "TimeZone = 'UTC'", "preserve_insertion_order = false"):
        engine.execute(f"SET {setting}")
    engine.execute("SET temp_directory = $spilled", {"spilled": str(folder.parent / "spilled")})
    return engine


def _paths(lake: Lake) -> list[str]:
    return [file.path for file in lake.data_files()]


def _batch(
    producer: str, segment: int, first: int, count: int, begun: datetime, *, repeats_from: int | None = None
) -> SegmentBatch:
    instant = pa.timestamp("us", tz="UTC")
    numbers = np.arange(first, first + count)
    if repeats_from is not None:
        numbers[:: 1000 // DUPLICATES_PER_THOUSAND] = repeats_from + np.arange(len(numbers[::1000]))
    times = pa.array(np.arange(count) + int(begun.timestamp()) * 10**6).cast(instant)
    keys = pa.array(numbers).cast(pa.string())
    events = pa.table(
        [
            pa.DictionaryArray.from_arrays(
                pa.array((numbers % 100).astype(np.int32)), [f"tenant-{number}" for number in range(100)]
            ).cast(pa.string()),
            pa.repeat(pa.scalar("tokens"), count),
            pa.array(numbers % 500).cast(pa.decimal128(38, 0)).cast(pa.decimal128(38, 9)),
            times,
            times,
            pa.repeat(pa.scalar(producer), count),
            pa.repeat(pa.scalar(segment, pa.int64()), count),
            pa.array(np.arange(count, dtype=np.int32)),
            pc.binary_join_element_wise("request", keys, "-"),
            pa.repeat(pa.scalar('{"model":"a"}'), count),
            pa.nulls(count, pa.string()),
        ],
        schema=usage_event_schema(),
    )
    letters = dead_letter_schema().empty_table()
    return SegmentBatch(
        producer_id=producer,
        segment=segment,
        kind="batch",
        rows=count,
        rows_before=0,
        sealed_at=int(begun.timestamp()) * 10**6,
        sha256="0" * 64,
        previous_sha256=None,
        events=events,
        dead_letters=letters,
        totals=control_totals(events, letters),
    )
