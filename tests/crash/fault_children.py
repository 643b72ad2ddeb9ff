"""A process that forks one child per run and lets strace fail its k-th system call. `python -m tests.crash.fault_children`.

Enters: one JSON document per line, a job. Leaves: one JSON line per job, with how the child ended. Everything is imported
before the fork, so that a run costs milliseconds, and a fault meets our own calls instead of the import system.

What a child did is noted in mapped memory on a healthy disk, one byte per event, before and after the call that records
it. So whoever counts knows of every event whether its call returned, said no, or was never left.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CALLING, RETURNED, REFUSED = 1, 2, 3
# The notes of one job: events by number, then the number up to which `flush` returned, then errors that have no excuse.
EVENTS_MAX = 4096
# Beside it, how many more files than at the start are open at the end.
FLUSHED_AT, FILES_AT = EVENTS_MAX, EVENTS_MAX + 4
SURPRISES_AT, NOTES_BYTES = EVENTS_MAX + 8, EVENTS_MAX + 4096
BATCH = 10
PATIENCE_S = 20.0


class Notes:
    """What a child says of itself in a mapped file."""

    def __init__(self, path: str) -> None:
        with Path(path).open("r+b") as file:
            self.bytes = mmap.mmap(file.fileno(), NOTES_BYTES)
        self._end = SURPRISES_AT

    def surprise(self, where: str, error: BaseException) -> None:
        text = f"{where}: {type(error).__name__}: {error}\n".encode()[: NOTES_BYTES - self._end]
        self.bytes[self._end : self._end + len(text)] = text
        self._end += len(text)


class _Recording:
    """Recording that notes of each call that it is made, and what came of it."""

    def __init__(self, job: dict[str, Any], notes: Notes) -> None:
        from metering.recorder import Recorder

        self._notes = notes
        self._ack = job.get("ack", "process")
        self.tenant = job["tenant"]
        # Rows by the thousand in 64 KiB segments and intervals of milliseconds: rolls, spares and seals come often.
        self.usage = Recorder(
            job["root"], ship="none", segment_bytes=1 << 16, flush_interval_s=0.002, seal_interval_s=0.01
        )

    def attempt(self, where: str, numbers: range, work: Callable[[], object]) -> bool:
        from metering.errors import JournalFull, NotYetDurable

        notes = self._notes.bytes
        notes[numbers.start : numbers.stop] = bytes([CALLING]) * len(numbers)
        outcome = REFUSED
        try:
            work()
            outcome = RETURNED
        except JournalFull:
            pass
        except NotYetDurable:
            # Written, says the error: it may be there, once.
            outcome = CALLING
        except BaseException as error:  # noqa: BLE001 - whatever else comes out is what this looks for
            self._notes.surprise(where, error)
        notes[numbers.start : numbers.stop] = bytes([outcome]) * len(numbers)
        return outcome == RETURNED

    def record(self, number: int) -> int:
        details = {"key": f"{self.tenant}:{number}", "step": str(number % 70)} if number % 7 == 0 else {}
        numbers = range(number, number + 1)
        how = {"tenant": self.tenant, "quantity": number, "ack": self._ack, **details}
        if self.attempt("record", numbers, lambda: self.usage.record("tokens", **how)) and self._ack == "disk":
            self._note_durable(number)
        return numbers.stop

    def record_batch(self, number: int) -> int:
        numbers = range(number, number + BATCH)
        table = _table(self.tenant, numbers)
        self.attempt("record_batch", numbers, lambda: self.usage.record_batch(table))
        return numbers.stop

    def flush(self, number: int) -> None:
        if self.attempt("flush", range(0), self.usage.flush):
            self._note_durable(number)

    def _note_durable(self, number: int) -> None:
        self._notes.bytes[FLUSHED_AT : FLUSHED_AT + 4] = number.to_bytes(4, "little")


def record(job: dict[str, Any], notes: Notes) -> None:
    """Record rows, single and in batches, with flushes and seals between; go on after a refusal."""

    def dead_thread(arguments: threading.ExceptHookArgs) -> None:
        notes.surprise("thread", arguments.exc_value or RuntimeError())

    threading.excepthook = dead_thread
    here = _Recording(job, notes)
    files_before = _lowest_free_file()
    number = 1
    while number < job["count"]:
        is_batch = job.get("batches") and number % 400 == 1
        number = here.record_batch(number) if is_batch else here.record(number)
        if number % job.get("flush_every", 50) == 0:
            here.flush(number - 1)
        if number % job.get("seal_every", 170) == 0:
            here.attempt("seal", range(0), here.usage.seal)
        if "pace_s" in job:
            time.sleep(job["pace_s"])
    notes.bytes[FILES_AT : FILES_AT + 4] = (_lowest_free_file() - files_before).to_bytes(4, "little")
    if job.get("close"):
        here.attempt("close", range(0), here.usage.close)


def _lowest_free_file() -> int:
    # The kernel gives the lowest number that is free; nothing is opened for that, so no fault can hit it.
    file = os.dup(0)
    os.close(file)
    return file


def _table(tenant: str, numbers: range) -> Any:
    import pyarrow as pa

    count = len(numbers)
    names = {"tenant_id": [tenant] * count, "meter": ["tokens"] * count, "quantity": list(numbers)}
    times = pa.array([datetime(2026, 11, 1, tzinfo=UTC)] * count, pa.timestamp("us", tz="UTC"))
    return pa.table({**names, "event_time": times})


def _on_the_lake(where: str, job: dict[str, Any], notes: Notes, work: Callable[[Any, Any], object]) -> None:
    """Note whether the work was done, or refused with a word that a retry helps."""
    from metering.errors import LakeUnavailable
    from metering.lake import Lake
    from metering.layout import Layout

    layout = Layout.of(job["root"])
    notes.bytes[0] = REFUSED
    try:
        work(layout, Lake(layout.lake))
        notes.bytes[0] = RETURNED
    except LakeUnavailable:
        pass
    except BaseException as error:  # noqa: BLE001 - whatever else comes out is what this looks for
        notes.surprise(where, error)


def ship(job: dict[str, Any], notes: Notes) -> None:
    from metering.ship import ship as ship_once

    _on_the_lake("ship", job, notes, ship_once)
    while job.get("is_repeated"):
        _on_the_lake("ship", job, notes, ship_once)


def keep_up(job: dict[str, Any], notes: Notes) -> None:
    """Rewrite small files, and delete at once whatever the newest version does not name."""

    def work(_layout: Any, lake: Any) -> None:
        lake.compact()
        lake.vacuum(retention_hours=0)

    _on_the_lake("keep up", job, notes, work)


WORK: dict[str, Callable[[dict[str, Any], Notes], None]] = {"record": record, "ship": ship, "keep_up": keep_up}


def _run(job: dict[str, Any], go: int) -> None:
    notes = Notes(job["notes"])
    for name, value in job.get("limits", {}).items():
        resource.setrlimit(getattr(resource, name), (value, resource.getrlimit(getattr(resource, name))[1]))
    os.read(go, 1)
    try:
        WORK[job["work"]](job, notes)
    except BaseException as error:
        notes.surprise("job", error)
        raise


def _fork(job: dict[str, Any]) -> tuple[int, int]:
    """Return the child, which waits, and what to write to for it to go on."""
    go, start = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(start)
        status = 1
        try:
            _run(job, go)
            status = 0
        finally:
            os._exit(status)
    os.close(go)
    return child, start


def _is_traced(process_id: int) -> bool:
    return "TracerPid:\t0\n" not in Path(f"/proc/{process_id}/status").read_text(encoding="utf-8")


def _serve_one(job: dict[str, Any]) -> dict[str, Any]:
    child, start = _fork(job)
    tracer = None
    if "inject" in job:
        command = ["strace", "-f", "-qq", "-o", job["log"], "-e", f"trace={job['inject'].partition(':')[0]}"]
        tracer = subprocess.Popen([*command, "-e", f"inject={job['inject']}", "-p", str(child)], stderr=subprocess.PIPE)
        while tracer.poll() is None and not _is_traced(child):
            time.sleep(0.001)
        if tracer.poll() is not None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return {"error": (tracer.stderr.read() if tracer.stderr else b"").decode()}
    os.close(start) if os.write(start, b"g") else None
    if job.get("is_free"):
        return {"process_id": child}
    # A fault in a library's own plumbing may hang it; then it is killed, as somebody would.
    watch = threading.Timer(PATIENCE_S, os.kill, (child, signal.SIGKILL))
    watch.start()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    watch.cancel()
    if tracer is not None:
        tracer.communicate()
    return {"status": status}


def main() -> None:
    import deltalake.exceptions
    import deltalake.transaction
    import pyarrow.compute
    import pyarrow.parquet

    import metering.decode
    import metering.lake
    import metering.lake_upkeep
    import metering.recorder
    import metering.ship
    import metering.tables

    del deltalake, pyarrow
    # pyarrow looks for pandas, and our own encoder for its engines, when they are first used.
    metering.tables.encode_batch(_table("warm", range(1, 2)), rules=None, recorded_at=0)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_serve_one(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
