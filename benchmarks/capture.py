"""What it costs to record a usage event, beside what applications do today, all in one run.

Enters: nothing. Leaves: one row per measurement, as a ratio to a named peer measured seconds apart on the same machine.
Nothing that it is compared with survives SIGKILL, except the file. Rows: {name, value, unit, ratio, against, note}.
"""

from __future__ import annotations

import logging
import queue
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, Counter

from benchmarks.capture_process import import_times, memory
from metering.lake import Lake
from metering.recorder import Recorder
from metering.ship import Shipped, ship

Loop = Callable[[int], None]
TURNS = 3


def run(quick: bool) -> list[dict[str, Any]]:
    """Return the rows of this benchmark. `quick` measures a tenth as long."""
    scale = 1 if quick else 10
    with tempfile.TemporaryDirectory() as folder:
        rows = _calls(Path(folder), 20_000 * scale, repeats=5 if quick else 9)
        rows += _to_the_lake(Path(folder), 100_000 * scale)
        rows += memory(Path(folder, "memory"), 1_000_000 * scale)
    return [*rows, *import_times(3 if quick else 15)]


def _calls(folder: Path, count: int, repeats: int) -> list[dict[str, Any]]:
    with Recorder(folder / "calls", ship="none") as usage:
        ours, theirs = _ours(usage), _theirs(folder)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in (*ours, *theirs)}
        # Turn by turn, so that a busy moment of the machine meets all of them.
        for _ in range(repeats):
            for name, loop in {**ours, **theirs}.items():
                # What the other threads do for our rows is part of the price, and must not fall on who comes next.
                times[name].append(_timed(loop, count, usage.seal if name in ours else None))
    median = {name: statistics.median(cpu for cpu, _ in values) for name, values in times.items()}
    wall = {name: statistics.median(wall for _, wall in values) for name, values in times.items()}
    batch = _batch_ns(folder, count, repeats)
    labels, child, otel = "prometheus labels().inc()", "prometheus child.inc()", "OpenTelemetry Counter.add"

    def against(name: str, peer: str, budget: str) -> str:
        by_wall = f"{wall[name]:,.0f} ns and {wall[name] / wall[peer]:.2f} x by the wall clock"
        return f"{budget}; {by_wall}" if budget else by_wall

    rows = [
        _row(
            "record() with two attributes",
            median["record"],
            median[labels],
            labels,
            against("record", labels, "budget 1"),
        ),
        _row("bound add()", median["bound"], median[child], child, against("bound", child, "budget 2")),
        _row("bound add()", median["bound"], median[otel], otel, against("bound", otel, "budget 0.1")),
        _row(
            "record() with a key",
            median["record with key"],
            median["queue.put of a dict"],
            "queue.put of a dict",
            against("record with key", "queue.put of a dict", ""),
        ),
        _row("record_batch() per event", batch, median["bound"], "bound add()", "checked, hashed, fsynced"),
    ]
    return rows + [_row(name, median[name], median["record"], "record()", "") for name in theirs]


def _timed(loop: Loop, count: int, settle: Callable[[], None] | None) -> tuple[float, float]:
    """Return what a call took: processor time of all threads until its rows are sealed, and wall time until it returned.

    The first does not count what others on this machine do, and does count what other threads do for the caller.
    """
    began_cpu, began = time.process_time_ns(), time.perf_counter_ns()
    loop(count)
    wall = time.perf_counter_ns() - began
    if settle is not None:
        settle()
    return (time.process_time_ns() - began_cpu) / count, wall / count


def _ours(usage: Recorder) -> dict[str, Loop]:
    tokens = usage.bind("tokens", tenant="acme", model="gpt-4o", direction="input")

    def record(count: int) -> None:
        call = usage.record
        for _ in range(count):
            call("tokens", tenant="acme", quantity=512, model="gpt-4o", direction="input")

    def bound(count: int) -> None:
        add = tokens.add
        for _ in range(count):
            add(512)

    def with_key(count: int) -> None:
        call = usage.record
        for number in range(count):
            call("tokens", tenant="acme", quantity=512, key=f"r{number}", model="gpt-4o", direction="input")

    return {"record": record, "bound": bound, "record with key": with_key}


def _theirs(folder: Path) -> dict[str, Loop]:  # noqa: C901 - seven loops of one shape
    counter = Counter("tokens", "tokens", ["tenant", "model", "direction"], registry=CollectorRegistry())
    child = counter.labels(tenant="acme", model="gpt-4o", direction="input")
    meter = MeterProvider([InMemoryMetricReader()]).get_meter("benchmark").create_counter("tokens")
    log = logging.Logger("benchmark")
    log.addHandler(logging.FileHandler(folder / "usage.log"))

    def labels_inc(count: int) -> None:
        for _ in range(count):
            counter.labels(tenant="acme", model="gpt-4o", direction="input").inc(512)

    def child_inc(count: int) -> None:
        inc = child.inc
        for _ in range(count):
            inc(512)

    def otel_add(count: int) -> None:
        add = meter.add
        for _ in range(count):
            add(512, {"tenant": "acme", "model": "gpt-4o", "direction": "input"})

    def log_info(count: int) -> None:
        for _ in range(count):
            log.info("tokens tenant=%s quantity=%d model=%s direction=%s", "acme", 512, "gpt-4o", "input")

    def queue_put(count: int) -> None:
        waiting: queue.Queue[dict[str, object]] = queue.Queue()
        for _ in range(count):
            waiting.put({"meter": "tokens", "tenant": "acme", "quantity": 512, "model": "gpt-4o", "direction": "input"})

    def list_append(count: int) -> None:
        kept: list[tuple[object, ...]] = []
        for _ in range(count):
            kept.append(("tokens", "acme", 512, "gpt-4o", "input"))  # noqa: PERF401 - appending is what is measured

    def time_ns(count: int) -> None:
        for _ in range(count):
            time.time_ns()

    return {
        "prometheus labels().inc()": labels_inc,
        "prometheus child.inc()": child_inc,
        "OpenTelemetry Counter.add": otel_add,
        "logging to a file": log_info,
        "queue.put of a dict": queue_put,
        "list.append of a tuple": list_append,
        "time.time_ns()": time_ns,
    }


def _table(count: int) -> pa.Table:
    instant = pa.timestamp("us", tz="UTC")
    now = pa.scalar(time.time_ns() // 1000, pa.int64()).cast(instant)
    return pa.table(
        {
            "tenant_id": pa.array([f"tenant-{number % 100}" for number in range(count)]),
            "meter": pa.repeat(pa.scalar("tokens"), count),
            "quantity": pa.array(range(count), pa.int64()),
            "event_time": pa.repeat(now, count),
            "attributes": pa.repeat(pa.scalar('{"model":"gpt-4o"}'), count),
        }
    )


def _varied_table(count: int) -> pa.Table:
    """Return usage events of which no column is the same throughout: five meters, twenty sets of attributes, ten minutes."""
    chance = np.random.default_rng(1)
    began_us = time.time_ns() // 1000
    times = began_us + np.sort(chance.integers(0, 600_000_000, count))
    return pa.table(
        {
            "tenant_id": pa.array([f"tenant-{number}" for number in range(100)]).take(chance.integers(0, 100, count)),
            "meter": pa.array([f"meter-{number}" for number in range(5)]).take(chance.integers(0, 5, count)),
            "quantity": pa.array(chance.integers(1, 4000, count)),
            "event_time": pa.array(times).cast(pa.timestamp("us", tz="UTC")),
            "attributes": pa.array([f'{{"model":"m-{number}"}}' for number in range(20)]).take(
                chance.integers(0, 20, count)
            ),
        }
    )


def _batch_ns(folder: Path, count: int, repeats: int) -> float:
    table = _table(count)
    times = []
    with Recorder(folder / "batches", ship="none") as usage:
        for _ in range(repeats):
            began = time.process_time_ns()
            usage.record_batch(table)
            times.append((time.process_time_ns() - began) / count)
    return statistics.median(times)


def _to_the_lake(folder: Path, count: int) -> list[dict[str, Any]]:
    """Return events per second of one core's time, from the call to the fsynced commit of the lake: medians of turns."""
    with Recorder(folder / "first", ship="none") as usage:
        # The first commit of a process also loads the engines; a shipper does that once in its life.
        usage.record("tokens", tenant="acme")
        usage.record_batch(_table(1))
        usage.ship_now()
    tables = {"columnar": _table(count * 5), "columnar, every column varied": _varied_table(count * 5)}
    turns: dict[str, list[tuple[float, float, float]]] = {}
    for turn in range(TURNS):
        here = folder / f"turn {turn}"
        turns.setdefault("row by row", []).append(_journey(here / "rows", count, lambda to: _record_rows(to, count)))
        for name, table in tables.items():
            turns.setdefault(name, []).append(
                _journey(here / name, len(table), lambda to, of=table: _record_table(to, of))
            )
            # The floor: the caller's own table, unchecked, unhashed, unsynced, and twice where it is sent twice.
            peer_s = _timed_once(lambda to=here / f"peer {name}", of=table: write_deltalake(to, of))
            turns.setdefault(f"deltalake.write_deltalake of {name}", []).append((*peer_s, 0.0))
    rows = []
    for name, events, budget in (("row by row", count, 700_000), *((one, count * 5, 5_000_000) for one in tables)):
        wall_s, recorded_s, shipped_s = _median(turns[name])
        parts = f"{recorded_s / events * 1e9:.0f} ns to record, {shipped_s / events * 1e9:.0f} ns to ship"
        note = f"{events} events; per second of wall time {events / wall_s:,.0f}; processor time: {parts}"
        rows.append(_row(f"{name} to the lake", events / (recorded_s + shipped_s), budget, "budget", note, "events/s"))
    for (name, table), ours in zip(tables.items(), rows[1:], strict=True):
        peer = f"deltalake.write_deltalake of {name}"
        wall_s, cpu_s, _ = _median(turns[peer])
        note = f"{len(table)} events; per second of wall time {len(table) / wall_s:,.0f}; checks, hashes, syncs, dedupes nothing"
        rows.append(_row(peer, len(table) / cpu_s, ours["value"], ours["name"], note, "events/s"))
    return rows


def _journey(root: Path, events: int, record: Callable[[Path], None]) -> tuple[float, float, float]:
    """Return wall time in all, and processor time to record and to ship, in seconds."""
    recorded_s, recorded_cpu_s = _timed_once(lambda: record(root))
    layout = Recorder(root, ship="none").layout
    shipped: list[Shipped] = []
    shipped_s, shipped_cpu_s = _timed_once(lambda: shipped.append(ship(layout, Lake(layout.lake))))
    if sum(one.rows for one in shipped) != events:
        raise RuntimeError(f"{shipped} instead of {events} events arrived")
    return recorded_s + shipped_s, recorded_cpu_s, shipped_cpu_s


def _record_rows(root: Path, count: int) -> None:
    with Recorder(root, ship="none") as usage:
        tokens = [usage.bind("tokens", tenant=f"tenant-{number}", model="gpt-4o") for number in range(100)]
        for number in range(count):
            tokens[number % 100].add(number)


def _record_table(root: Path, table: pa.Table) -> None:
    with Recorder(root, ship="none") as usage:
        usage.record_batch(table)


def _median(turns: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    """Return the turn whose processor time is in the middle."""
    return sorted(turns, key=lambda one: one[1] + one[2])[len(turns) // 2]


def _timed_once(work: Callable[[], object]) -> tuple[float, float]:
    """Return wall time and processor time of one call, in seconds."""
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began_s, time.process_time() - began_cpu_s


def _row(name: str, value: float, other: float, against: str, note: str, unit: str = "ns") -> dict[str, Any]:
    return {
        "name": name,
        "value": round(value, 1),
        "unit": unit,
        "ratio": round(value / other, 3),
        "against": against,
        "note": note,
    }


if __name__ == "__main__":
    for row in run(quick=True):
        print(
            f"{row['name']:32} {row['value']:>14,.1f} {row['unit']:9} {row['ratio']:>8} x {row['against']:28} {row['note']}"
        )
