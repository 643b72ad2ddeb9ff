"""A producer is killed at a random instant: every event whose `record()` returned counts once, and nothing else does."""

from __future__ import annotations

import random
import select
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.crash.children import ACKNOWLEDGED
from tests.crash.workspace import arrived, journal_is_empty, once_each, ship_all, start


def kill_at_random(root: Path, command: str, run: int, chance: random.Random, threads: int) -> dict[str, int]:
    """Start a producer, kill it a random time after its first acknowledgement, return the last number per tenant."""
    extra = [threads] if command == "record" else []
    with start(command, root, run, *extra, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        read = bytearray(process.stdout.read1())
        # No sleep: the pipe is drained until the time has come, or the producer would stand still.
        kill_at = time.monotonic() + chance.uniform(0.0, 0.06)
        while (left := kill_at - time.monotonic()) > 0:
            if select.select([process.stdout], [], [], left)[0]:
                read += process.stdout.read1()
        process.kill()
        read += process.stdout.read()
    last: dict[str, int] = {}
    for thread, number in ACKNOWLEDGED.iter_unpack(bytes(read[: len(read) // ACKNOWLEDGED.size * ACKNOWLEDGED.size])):
        last[f"run-{run}-{thread}"] = number
    return last


def check(root: Path, acknowledged: dict[str, int], in_flight: int) -> int:
    """Demand every acknowledged event once, and at most one more write in flight per tenant. Return the events seen."""
    found = arrived(root)
    for tenant, last in acknowledged.items():
        numbers = found.pop(tenant, Counter())
        assert numbers == once_each(len(numbers)), f"{tenant}: lost, doubled or invented rows"
        assert last <= len(numbers) <= last + in_flight, f"{tenant}: {last} acknowledged, {len(numbers)} arrived"
    # A thread may have been killed before its first acknowledgement was read.
    assert all(numbers == once_each(1) for numbers in found.values()), f"invented: {sorted(found)}"
    assert journal_is_empty(root)
    return sum(acknowledged.values())


def kill_many(root: Path, kills: int, seed: int) -> int:
    chance = random.Random(seed)
    acknowledged: dict[str, int] = {}
    for run in range(kills):
        acknowledged |= kill_at_random(root, "record", run, chance, threads=1 + run % 2)
        # Several dead producers at once are the common case after a crash of a host.
        if run % 4 == 3:
            ship_all(root)
    ship_all(root)
    return check(root, acknowledged, in_flight=1)


def test_two_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    assert kill_many(tmp_path, kills=2, seed=2) > 0


def test_twenty_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    assert kill_many(tmp_path, kills=20, seed=20) > 0


def test_a_batch_is_whole_or_absent_after_a_kill(tmp_path: Path) -> None:
    chance = random.Random(5)
    acknowledged: dict[str, int] = {}
    for run in range(3):
        acknowledged |= kill_at_random(tmp_path, "batches", run, chance, threads=1)
    ship_all(tmp_path)
    assert all(len(numbers) % 10 == 0 for numbers in arrived(tmp_path).values())
    check(tmp_path, acknowledged, in_flight=10)


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_two_hundred_kills_lose_nothing_and_double_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = kill_many(tmp_path, kills=200, seed=200)
    with capsys.disabled():
        sys.stdout.write(f"\n200 SIGKILLs, {events} acknowledged events: 0 lost, 0 doubled, 0 invented\n")
