"""What the killed processes do. Each command is one process: `python -m tests.crash.children COMMAND ROOT ...`.

A row is (tenant, quantity); each tenant counts its quantities from 1, so that a lost, doubled or invented row shows.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import struct
import sys
import threading
import time
from pathlib import Path

from metering.recorder import Recorder

ACKNOWLEDGED = struct.Struct("<II")


def recorder(root: str) -> Recorder:
    # Small segments and short intervals, so that rolling and sealing are hit as often as recording.
    return Recorder(root, ship="none", segment_bytes=1 << 16, flush_interval_s=0.005, seal_interval_s=0.02)


def record_and_acknowledge(root: str, run: str, threads: str) -> None:
    """Record rows for ever, in several threads; after each, say so on standard output."""
    usage = recorder(root)

    def work(thread: int) -> None:
        tenant = f"run-{run}-{thread}"
        tokens = usage.bind("tokens", tenant=tenant)
        for number in range(1, 1 << 30):
            if number % 7 == 0:
                usage.record("tokens", tenant=tenant, quantity=number, key=f"{tenant}:{number}", step=str(number % 70))
            else:
                tokens.add(number)
            os.write(1, ACKNOWLEDGED.pack(thread, number))

    for thread in range(1, int(threads)):
        threading.Thread(target=work, args=(thread,), daemon=True).start()
    work(0)


def record_batches(root: str, run: str) -> None:
    """Record batches of ten rows for ever; after each, say so with its last number."""
    import pyarrow as pa

    usage = recorder(root)
    now = pa.scalar(int(time.time() * 1e6), pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    for first in range(1, 1 << 30, 10):
        numbers = list(range(first, first + 10))
        names = {"tenant_id": [f"run-{run}-0"] * 10, "meter": ["tokens"] * 10, "quantity": numbers}
        usage.record_batch(pa.table({**names, "event_time": pa.array([now.as_py()] * 10, now.type)}))
        os.write(1, ACKNOWLEDGED.pack(0, first + 9))


def ship(root: str) -> None:
    from metering.lake import Lake
    from metering.layout import Layout
    from metering.ship import ship as ship_once

    layout = Layout.of(root)
    ship_once(layout, Lake(layout.lake))


def _record_100(usage: Recorder, tenant: str) -> None:
    for number in range(1, 101):
        usage.record("tokens", tenant=tenant, quantity=number)


def fork(root: str) -> None:
    """Fork while recording, through Python; the child dies without any hook, the parent goes on."""
    usage = recorder(root)
    _record_100(usage, "before")
    child = os.fork()
    if child == 0:
        _record_100(usage, "child")
        os._exit(0)
    _record_100(usage, "parent")
    os.waitpid(child, 0)


def fork_in_c(root: str) -> None:
    """Fork behind Python's back, as uWSGI does: no hook runs, only the wiped page tells."""
    import ctypes

    usage = recorder(root)
    tokens = usage.bind("tokens", tenant="before")
    for number in range(1, 101):
        tokens.add(number)
    child = ctypes.CDLL(None).fork()
    tokens = tokens if child else usage.bind("tokens", tenant="child")
    _record_100(usage, "parent" if child else "child")
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def fork_with_bound(root: str) -> None:
    """A bound meter made before the fork counts for the process that uses it."""
    usage = recorder(root)
    tokens = usage.bind("tokens", tenant="shared")
    tokens.add(1)
    children = []
    for place in range(3):
        child = os.fork()
        if child == 0:
            for number in range(100):
                tokens.add(1000 * (place + 1) + number)
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    tokens.add(2)


def fork_among_greenlets(root: str) -> None:
    """Fork where threads are greenlets: in the child they go on, the parent's keeper among them."""
    from gevent import monkey, sleep

    monkey.patch_all()
    usage = recorder(root)
    usage.record("tokens", tenant="parent", quantity=1)
    sleep(0.05)
    child = os.fork()
    tenant = "parent" if child else "child"
    for number in range(2 if child else 1, 5001):
        usage.record("tokens", tenant=tenant, quantity=number)
        if number % 400 == 0:
            # Enough rows for a spare, and time for whoever keeps this journal, or takes it for another one.
            sleep(0.02)
    if child == 0:
        sys.exit(usage.health().last_error)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    producer = usage._producer
    assert producer is not None
    mine = set() if producer._spare is None else {producer._spare.path}
    if strange := {*producer.folder.glob("*.spare")} - mine:
        sys.exit(f"somebody else made {strange}")
    sys.exit(usage.health().last_error or status)


def _of_multiprocessing(usage: Recorder, place: int) -> None:
    _record_100(usage, f"child-{place}")


def multiprocess(root: str, method: str) -> None:
    usage = recorder(root)
    _record_100(usage, "parent")
    context = multiprocessing.get_context(method)
    children = [context.Process(target=_of_multiprocessing, args=(usage, place)) for place in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        if child.exitcode != 0:
            sys.exit(f"child ended with {child.exitcode}")


def end(root: str, how: str) -> None:
    """Record 100 rows and end at once, in one of the ways in which a process ends."""
    usage = recorder(root)
    _record_100(usage, "only")
    if how == "os._exit":
        os._exit(0)
    if how == "sigterm":
        os.kill(os.getpid(), signal.SIGTERM)
    if how == "abort":
        os.abort()
    if how == "exception":
        raise SystemExit(0)


def threads(root: str, count: str) -> None:
    """Record from many threads with the shortest switch interval, through hundreds of rolls and seals."""
    sys.setswitchinterval(1e-6)
    usage = recorder(root)

    def work(place: int) -> None:
        tokens = usage.bind("tokens", tenant=f"thread-{place}")
        for number in range(1, 5001):
            tokens.add(number)

    workers = [threading.Thread(target=work, args=(place,)) for place in range(int(count))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    os._exit(0)


def signals(root: str) -> None:
    """Record in a signal handler that interrupts recording, rolling and sealing."""
    usage = recorder(root)
    numbers = iter(range(1, 1 << 30))

    def handler(_number: int, _frame: object) -> None:
        usage.record("tokens", tenant="handler", quantity=next(numbers))
        # Set again only now: a slow machine must not drown in signals.
        signal.setitimer(signal.ITIMER_REAL, 0.0005)

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0005)
    for number in range(1, 20001):
        usage.record("tokens", tenant="main", quantity=number)
        if number % 500 == 0:
            usage.seal()
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    Path(root, "handled").write_text(str(next(numbers) - 1))


def drop(root: str, count: str, segments: str, ending: str) -> None:
    """Fill a journal of so many segments, drop so many events, say how many were recorded, and end."""
    size = 1 << 16
    usage = Recorder(
        root, ship="none", segment_bytes=size, journal_bytes_max=int(segments) * size,
        on_error="drop_and_count", seal_interval_s=3600.0,
    )  # fmt: skip
    recorded = 0
    while not usage.dropped:
        recorded += 1
        usage.record("tokens", tenant="acme", quantity=recorded)
    recorded -= 1
    if ending == "sealed, sigkill":
        usage.seal()
    if ending == "shipped, sigkill":
        usage.ship_now()
        # Room again: these are counted by the trailer; then there is none again, and what was sealed is in the lake.
        usage._settings["journal_bytes_max"] = usage._producer._bytes_max = 0  # type: ignore[union-attr]
        usage._producer._spare = None  # type: ignore[union-attr]
    if ending.startswith("signals"):

        def handler(_number: int, _frame: object) -> None:
            usage.record("tokens", tenant="acme", quantity=0)
            # Set again only now: a slow machine must not drown in signals.
            signal.setitimer(signal.ITIMER_REAL, 0.0002)

        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0002)
    while usage.dropped < int(count):
        usage.record("tokens", tenant="acme", quantity=0)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    Path(root, "dropped").write_text(str(usage.dropped))
    os.write(1, str(recorded).encode())
    if ending == "os._exit":
        os._exit(0)
    if ending.endswith("sigkill"):
        os.kill(os.getpid(), signal.SIGKILL)


def live_shortly(root: str, tenant: str, count: str, how: str) -> None:
    """Record a few events and end, in one of the ways in which a short process ends."""
    usage = recorder(root)
    for number in range(1, int(count) + 1):
        usage.record("tokens", tenant=tenant, quantity=number)
    if how == "os._exit":
        os._exit(0)
    if how == "exception":
        raise SystemExit(3)
    if how == "abort":
        os.abort()
    if how in {"sigterm", "sigkill"}:
        os.kill(os.getpid(), signal.SIGTERM if how == "sigterm" else signal.SIGKILL)
    if how == "close":
        usage.close()


def ship_and_stand_still(root: str, place: str) -> None:
    """Ship, and stop oneself before step number `place`, until somebody continues this process."""
    from metering.lake import Lake
    from metering.layout import Layout
    from metering.ship import ship as ship_once

    steps = iter(range(1 << 30))

    def on_step(_name: str) -> None:
        if next(steps) == int(place):
            os.kill(os.getpid(), signal.SIGSTOP)

    layout = Layout.of(root)
    ship_once(layout, Lake(layout.lake, on_step=on_step), on_step=on_step)


def recycle(root: str, workers: str, lives: str, tasks: str) -> None:
    """Be a master that recorded, and replace each of its forked workers after some tasks; none of them ends with a hook."""
    usage = recorder(root)
    tokens = usage.bind("tokens", tenant="master")
    tokens.add(1)
    running: set[int] = set()
    for life in range(int(lives)):
        if len(running) == int(workers):
            running.remove(os.wait()[0])
        child = os.fork()
        if child == 0:
            # Half of them go on with what the master made, half with their own.
            mine = usage if life % 2 else recorder(root)
            for number in range(1, int(tasks) + 1):
                mine.record("tokens", tenant=f"life-{life}", quantity=number)
            os._exit(0)
        running.add(child)
        tokens.add(life + 2)
    while running:
        running.remove(os.wait()[0])
    os._exit(0)


_of_worker: list[Recorder] = []


def _begin_worker(usage: Recorder) -> None:
    _of_worker.append(usage)


def _do_task(number: int) -> None:
    _of_worker[0].record("tokens", tenant="pool", quantity=number)


def pool(root: str, method: str, tasks: str) -> None:
    """Let a pool of multiprocessing, which replaces its workers after three tasks each, record every task."""
    usage = recorder(root)
    usage.record("tokens", tenant="parent", quantity=1)
    context = multiprocessing.get_context(method)
    with context.Pool(2, _begin_worker, (usage,), maxtasksperchild=3) as workers:
        workers.map(_do_task, range(1, int(tasks) + 1), chunksize=1)
    usage.record("tokens", tenant="parent", quantity=2)


COMMANDS = {
    "live_shortly": live_shortly,
    "pool": pool,
    "recycle": recycle,
    "ship_and_stand_still": ship_and_stand_still,
    "drop": drop,
    "record": record_and_acknowledge,
    "batches": record_batches,
    "ship": ship,
    "fork": fork,
    "fork_in_c": fork_in_c,
    "fork_with_bound": fork_with_bound,
    "fork_among_greenlets": fork_among_greenlets,
    "multiprocess": multiprocess,
    "end": end,
    "threads": threads,
    "signals": signals,
}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
