"""The shipper is killed between any two of its steps, and several ship at once: the lake counts each event once."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from metering.lake import Lake
from metering.layout import Layout
from metering.ship import ship
from tests.crash.children import recorder
from tests.crash.workspace import arrived, journal_is_empty, once_each, run, ship_all, start


class Killed(BaseException):
    """Stands for a SIGKILL between two steps; `except Exception` does not see it."""


def record_some(root: Path, tenant: str, count: int) -> None:
    """Leave three segments of a producer that is dead: two sealed, one as if killed."""
    usage = recorder(str(root))
    for number in range(1, count + 1):
        usage.record("tokens", tenant=tenant, quantity=number)
        if number % 40 == 0:
            usage.seal()
    usage.close()


def ship_until(root: Path, steps: int) -> list[str]:
    """Ship, and die before step number `steps`; return the steps that were taken."""
    taken: list[str] = []

    def on_step(name: str) -> None:
        if len(taken) == steps:
            raise Killed(name)
        taken.append(name)

    layout = Layout.of(root)
    ship(layout, Lake(layout.lake, on_step=on_step), on_step=on_step)
    return taken


def test_a_kill_before_any_step_is_repaired_by_the_next_run(tmp_path: Path) -> None:
    record_some(tmp_path, "tenant-0", 100)
    steps = len(ship_until(tmp_path, -1))
    assert steps > 10
    for place in range(steps):
        tenant = f"tenant-{place + 1}"
        record_some(tmp_path, tenant, 100)
        try:
            ship_until(tmp_path, place)
        except Killed:
            ship_all(tmp_path)
    assert arrived(tmp_path) == {f"tenant-{place}": once_each(100) for place in range(steps + 1)}
    assert journal_is_empty(tmp_path)


def test_a_killed_shipper_process_leaves_nothing_half_counted(tmp_path: Path) -> None:
    chance = random.Random(3)
    for place in range(3):
        record_some(tmp_path, f"tenant-{place}", 100)
        began = time.monotonic()
        with start("ship", tmp_path) as process:
            try:
                process.wait(chance.uniform(0.3, 0.9))
            except subprocess.TimeoutExpired:
                process.kill()
        assert time.monotonic() - began < 60
    ship_all(tmp_path)
    assert arrived(tmp_path) == {f"tenant-{place}": once_each(100) for place in range(3)}
    assert journal_is_empty(tmp_path)


def test_three_shippers_at_once_beside_a_recording_process(tmp_path: Path) -> None:
    record_some(tmp_path, "dead", 1000)
    usage = recorder(str(tmp_path))
    shippers = [start("ship", tmp_path) for _ in range(3)]
    number = 0
    while any(shipper.poll() is None for shipper in shippers):
        number += 1
        usage.record("tokens", tenant="live", quantity=number)
        if number % 500 == 0:
            usage.seal()
    assert [shipper.wait() for shipper in shippers] == [0, 0, 0]
    usage.close()
    assert run("ship", tmp_path) == 0
    assert arrived(tmp_path) == {"dead": once_each(1000), "live": once_each(number)}
    assert journal_is_empty(tmp_path)


def test_a_side_car_that_is_killed_and_started_again_ships_each_event_once(tmp_path: Path) -> None:
    tallybook = [sys.executable, "-m", "tallybook.cli", "-w", str(tmp_path)]
    subprocess.run([*tallybook, "init"], check=True, capture_output=True)
    deadline = time.monotonic() + 100
    for turn, ending in enumerate(["sigkill", "os._exit", "return"]):
        with subprocess.Popen([*tallybook, "ship", "--watch"]) as side_car:
            assert run("live_shortly", tmp_path, f"turn-{turn}", 50, ending) in {0, -signal.SIGKILL}
            # The last one has time for all that is left; the others are killed wherever they are.
            while time.monotonic() < deadline and not (turn < 2 or journal_is_empty(tmp_path)):
                time.sleep(0.05)
            if turn < 2:
                time.sleep(0.7 * turn + 0.3)
            side_car.send_signal(signal.SIGKILL if turn < 2 else signal.SIGTERM)
    assert journal_is_empty(tmp_path)
    assert arrived(tmp_path) == {f"turn-{turn}": once_each(50) for turn in range(3)}
