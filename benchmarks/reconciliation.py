"""Reconciliation at size: a million invoice lines against a provider's list, and the totals of a hundred million events.

Enters: nothing. Leaves: processor seconds and memory, as ratios to named alternatives over the same data in the same run: the
full join of polars (exact decimals too), the outer merge of pandas (whole minor units, its best case), and, for control totals,
the scan of the events that the trailers of segments make unnecessary. Every answer is compared with what was planted, or it is
no figure. Each measured thing works in a process of its own, so that its memory is its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.figures import Figure

# Of every million lines: only ours, only theirs, and those that differ by a cent.
MISSING, UNKNOWN, DIFFERENT = 100, 70, 50
SEGMENT_ROWS = 100_000
BUDGET_S = 10

_OURS = """
COPY (
    SELECT 'stripe' AS adapter, 'dlv-' || (i // 10) AS document_id, 'line-' || i AS line_id, 'USD' AS currency,
        (((i * 7919) % 1000000)::DECIMAL(38, 12) * 0.01)::DECIMAL(38, 12) AS amount
    FROM range($lines) AS r(i)
    ORDER BY hash(i)
) TO '{path}' (FORMAT parquet, COMPRESSION zstd)
"""
_THEIRS = """
COPY (
    SELECT adapter, document_id, line_id, currency, amount + CASE WHEN number % 1000 = 7 AND number < $different * 1000
        THEN 0.01 ELSE 0 END AS amount
    FROM (SELECT *, replace(line_id, 'line-', '')::BIGINT AS number FROM read_parquet('{ours}'))
    WHERE NOT (number % 1000 = 3 AND number < $missing * 1000)
    UNION ALL
    SELECT 'stripe', 'dlv-unknown', 'theirs-' || i, 'USD', 1.00::DECIMAL(38, 12) FROM range($unknown) AS r(i)
    ORDER BY hash(line_id)
) TO '{path}' (FORMAT parquet, COMPRESSION zstd)
"""
_EVENTS = """
COPY (
    SELECT 'tenant-' || (hash(i) % 200) AS tenant_id, 'meter-' || (hash(i + 1) % 10) AS meter,
        ((hash(i + 2) % 1000)::DECIMAL(38, 9) * 0.001)::DECIMAL(38, 9) AS quantity,
        TIMESTAMPTZ '2026-10-01 00:00:00+00' + to_seconds((i * 2592000) // $events) AS event_time,
        (i // {segment_rows})::BIGINT AS segment
    FROM range($first, $last) AS r(i)
) TO '{path}' (FORMAT parquet, COMPRESSION zstd)
"""
_TRAILERS = """
COPY (
    SELECT 'producer' AS producer_id, segment, list({{
        'tenant_id': tenant_id, 'meter': meter, 'event_date': event_date, 'rows': rows, 'quantity': quantity
    }}) AS totals
    FROM (
        SELECT segment, tenant_id, meter, event_time::DATE AS event_date, count(*) AS rows,
            sum(quantity)::DECIMAL(38, 9) AS quantity
        FROM read_parquet('{events}')
        GROUP BY ALL
    )
    GROUP BY segment
) TO '{path}' (FORMAT parquet, COMPRESSION zstd)
"""

_WAYS = ("tallybook", "polars", "pandas", "trailers", "scan")


def run(quick: bool) -> list[Figure]:
    """Return the figures of this benchmark. `quick`: a tenth of the lines, a hundredth of the events."""
    lines, events = (100_000, 1_000_000) if quick else (1_000_000, 100_000_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_lines(folder, lines)
        _write_events(folder, events)
        found = {way: _measured(way, folder) for way in _WAYS}
    expected = {
        "match": lines - MISSING - DIFFERENT,
        "only_ours": MISSING,
        "only_theirs": UNKNOWN,
        "amount_differs": DIFFERENT,
    }
    for way in ("tallybook", "polars", "pandas"):
        if found[way]["answer"] != expected:
            raise RuntimeError(f"{way} found {found[way]['answer']}, planted is {expected}")
    if found["trailers"]["answer"] != found["scan"]["answer"] or found["scan"]["answer"]["rows"] != events:
        raise RuntimeError(f"totals differ: {found['trailers']['answer']} and {found['scan']['answer']}")
    return [*_of_lines(found, lines, quick=quick), *_of_totals(found, events)]


def _of_lines(found: dict[str, Any], lines: int, *, quick: bool) -> list[Figure]:
    ours = found["tallybook"]
    if not quick and ours["seconds"] > BUDGET_S:
        print(f"over the budget of {BUDGET_S} s: {ours['seconds']:.1f} s", file=sys.stderr)
    note = f"processor time; read, hash, match, count; the budget is {BUDGET_S} s"
    figures = []
    for way, said in (("polars", "full join, decimals"), ("pandas", "outer merge, whole minor units")):
        figures.append(_figure(f"{lines:,} lines with {way}", found[way]["seconds"], "s", None, None, said))
    figures.append(
        _figure(
            f"{lines:,} lines with a provider's list",
            ours["seconds"],
            "s",
            ours["seconds"] / found["polars"]["seconds"],
            "polars",
            note,
        )
    )
    figures.append(
        _figure(
            "the same, memory",
            ours["mib"],
            "MiB",
            ours["mib"] / found["polars"]["mib"],
            "polars",
            "most of its process; all breaks found, no other",
        )
    )
    return figures


def _of_totals(found: dict[str, Any], events: int) -> list[Figure]:
    trailers, scan = found["trailers"], found["scan"]
    note = f"{trailers['answer']['accounts']:,} accounts of tenant and meter; equal to the last digit"
    return [
        _figure(
            f"{events:,} events scanned for their totals",
            scan["seconds"],
            "s",
            None,
            None,
            "DuckDB over the data files",
        ),
        _figure(
            "the same totals from the trailers of segments",
            trailers["seconds"],
            "s",
            trailers["seconds"] / scan["seconds"],
            "scan",
            note,
        ),
        _figure(
            "the same, memory", trailers["mib"], "MiB", trailers["mib"] / scan["mib"], "scan", "most of its process"
        ),
    ]


def _write_lines(folder: Path, lines: int) -> None:
    ours, theirs = folder / "ours.parquet", folder / "theirs.parquet"
    with duckdb.connect() as engine:
        engine.execute(_OURS.format(path=ours), {"lines": lines})
        planted = {"different": DIFFERENT, "missing": MISSING, "unknown": UNKNOWN}
        engine.execute(_THEIRS.format(ours=ours, path=theirs), planted)


def _write_events(folder: Path, events: int) -> None:
    at_once = 10_000_000
    with duckdb.connect() as engine:
        engine.execute("SET memory_limit = '2GB'")
        engine.execute("SET TimeZone = 'UTC'")
        for number, first in enumerate(range(0, events, at_once)):
            path = folder / f"events-{number:03}.parquet"
            statement = _EVENTS.format(path=path, segment_rows=SEGMENT_ROWS)
            engine.execute(statement, {"first": first, "last": min(events, first + at_once), "events": events})
            engine.execute(_TRAILERS.format(events=path, path=folder / f"trailers-{number:03}.parquet"))


def _measured(way: str, folder: Path) -> dict[str, Any]:
    """Return what one way found, its seconds and the most memory of its process."""
    command = [sys.executable, "-m", "benchmarks.reconciliation_child", way, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _figure(name: str, value: float, unit: str, ratio: float | None, against: str | None, note: str) -> Figure:
    return Figure(name=name, value=value, unit=unit, ratio=ratio, against=against, note=note)
