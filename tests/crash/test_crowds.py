"""Processes that stand still, that live shortly, that are replaced: each of their events counts once."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.crash.children import ACKNOWLEDGED
from tests.crash.workspace import arrived, journal_is_empty, once_each, run, ship_all, start

ENDINGS = ("return", "exception", "os._exit", "sigterm", "sigkill", "abort", "close")


def read_for(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    """Read what a process says, for so long, or until it says nothing more for that time."""
    assert process.stdout is not None
    read = bytearray()
    until_s = time.monotonic() + seconds
    while (left := until_s - time.monotonic()) > 0 and select.select([process.stdout], [], [], left)[0]:
        read += os.read(process.stdout.fileno(), 1 << 20)
    return bytes(read)


def freeze(process: subprocess.Popen[bytes]) -> None:
    """Stop a process, and return when it stands still."""
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)


def freeze_and_thaw(root: Path, times: int, chance: random.Random) -> int:
    """Freeze a producer at random instants, ship meanwhile beside another one, thaw it; return what it acknowledged."""
    said = bytearray()
    with (
        start("record", root, 0, 2, stdout=subprocess.PIPE) as frozen,
        start("record", root, 1, 1, stdout=subprocess.DEVNULL) as other,
    ):
        assert frozen.stdout is not None
        # Until it has said something, it may not have a producer yet.
        said += os.read(frozen.stdout.fileno(), ACKNOWLEDGED.size)
        for _ in range(times):
            said += read_for(frozen, chance.uniform(0.0, 0.1))
            freeze(frozen)
            folder = folder_of(frozen)
            mine = {path.name for path in folder.iterdir() if path.suffix != ".sealed"}
            ship_all(root)
            # What is open is not taken from who may go on with it; what is sealed is in the lake.
            assert {path.name for path in folder.iterdir()} == mine
            frozen.send_signal(signal.SIGCONT)
        said += read_for(frozen, 0.05)
        frozen.kill()
        said += frozen.stdout.read()
        other.kill()
    ship_all(root)
    last: Counter[str] = Counter()
    for thread, number in ACKNOWLEDGED.iter_unpack(bytes(said[: len(said) // ACKNOWLEDGED.size * ACKNOWLEDGED.size])):
        last[f"run-0-{thread}"] = number
    found = arrived(root)
    for tenant, numbers in found.items():
        assert numbers == once_each(len(numbers)), f"{tenant}: lost, doubled or invented rows"
        if tenant in last:
            assert last[tenant] <= len(numbers) <= last[tenant] + 1
    assert journal_is_empty(root)
    return last.total()


def folder_of(process: subprocess.Popen[bytes]) -> Path:
    """Return the folder whose lock this process holds, as the kernel says."""
    files = [path.readlink() for path in Path(f"/proc/{process.pid}/fd").iterdir()]
    (lock,) = [path for path in files if path.name == "lock"]
    return lock.parent


def test_a_frozen_producer_keeps_what_is_its_own_and_goes_on(tmp_path: Path) -> None:
    assert freeze_and_thaw(tmp_path, 4, random.Random(1)) > 0


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_producers_frozen_hundreds_of_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = sum(freeze_and_thaw(tmp_path / str(seed), 15, random.Random(seed)) for seed in range(20))
    with capsys.disabled():
        sys.stdout.write(f"\n300 freezes of a producer, {events} acknowledged events: 0 lost, 0 doubled, 0 invented\n")


def record_some(root: Path, tenant: str) -> None:
    for part in range(2):
        assert run("live_shortly", root, f"{tenant}-{part}", 30, ENDINGS[part]) in {0, 3}


def ship_frozen_before(root: Path, place: int) -> bool:
    """Freeze a shipper before one of its steps, let a second one do all the work, thaw the first.

    Return whether there was such a step.
    """
    record_some(root, f"place-{place}")
    with start("ship_and_stand_still", root, place) as frozen:
        _, status = os.waitpid(frozen.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            frozen.returncode = os.waitstatus_to_exitcode(status)
            assert frozen.returncode == 0
            return False
        ship_all(root)
        frozen.send_signal(signal.SIGCONT)
        assert frozen.wait(60) == 0
    ship_all(root)
    assert journal_is_empty(root)
    return True


@pytest.mark.parametrize("place", [0, 3, 8, 12])
def test_a_shipper_frozen_between_two_steps_finds_its_work_done(tmp_path: Path, place: int) -> None:
    assert ship_frozen_before(tmp_path, place)
    assert arrived(tmp_path) == {f"place-{place}-{part}": once_each(30) for part in range(2)}


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_a_shipper_frozen_before_each_of_its_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = 0
    while ship_frozen_before(tmp_path, place):
        place += 1
    assert place > 10
    ship_all(tmp_path)
    expected = {f"place-{number}-{part}": once_each(30) for number in range(place + 1) for part in range(2)}
    assert arrived(tmp_path) == expected
    with capsys.disabled():
        sys.stdout.write(f"\na shipper frozen before each of {place} steps beside another: 0 lost, 0 doubled\n")


def live_and_die(root: Path, lives: int, at_once: int) -> None:
    """Let so many short processes live and end in different ways, some at once, while a shipper runs beside them."""
    running: list[subprocess.Popen[bytes]] = []
    for life in range(lives):
        if len(running) == at_once:
            running.pop(0).wait(60)
        running.append(start("live_shortly", root, f"life-{life}", 1 + life % 9, ENDINGS[life % len(ENDINGS)]))
        if life % 10 == 9:
            ship_all(root)
    for process in running:
        process.wait(60)
    ship_all(root)
    assert arrived(root) == {f"life-{life}": once_each(1 + life % 9) for life in range(lives)}
    assert journal_is_empty(root)


def test_many_short_processes_that_end_in_every_way(tmp_path: Path) -> None:
    live_and_die(tmp_path, 42, at_once=4)


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_hundreds_of_short_processes_that_end_in_every_way(tmp_path: Path) -> None:
    live_and_die(tmp_path, 300, at_once=8)


def recycle(root: Path, workers: int, lives: int, tasks: int) -> None:
    assert run("recycle", root, workers, lives, tasks) == 0
    ship_all(root)
    assert arrived(root) == {"master": once_each(lives + 1)} | {
        f"life-{life}": once_each(tasks) for life in range(lives)
    }
    assert journal_is_empty(root)


def test_workers_that_a_master_recycles(tmp_path: Path) -> None:
    recycle(tmp_path, workers=3, lives=12, tasks=100)


@pytest.mark.prove
def test_hundreds_of_workers_that_a_master_recycles(tmp_path: Path) -> None:
    recycle(tmp_path, workers=8, lives=400, tasks=1000)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_that_replaces_its_workers(tmp_path: Path, method: str) -> None:
    assert run("pool", tmp_path, method, 20) == 0
    ship_all(tmp_path)
    assert arrived(tmp_path) == {"parent": once_each(2), "pool": once_each(20)}
    assert journal_is_empty(tmp_path)
