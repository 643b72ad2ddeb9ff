"""The keeper of a recorder: somebody ships, and one that cannot is not started again and again."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from metering import keeper
from metering.keeper import SHIPPER_PAUSE_MAX_S, ShipperChild
from metering.layout import Layout
from metering.recorder import Recorder
from tests.crash.workspace import arrived, once_each, ship_all


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The process ids of shippers that were started; each of them gives up at once."""
    monkeypatch.setattr(keeper, "_interpreter", lambda: "/bin/false")
    pids: list[int] = []
    spawn = keeper._spawn

    def noted(layout: Layout) -> int:
        pids.append(spawn(layout))
        return pids[-1]

    monkeypatch.setattr(keeper, "_spawn", noted)
    yield pids
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def wait_for_end(pid: int) -> None:
    # Looked at, not reaped: that is for the one that is tested.
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_a_shipper_that_gives_up_is_started_ever_more_seldom(tmp_path: Path, started: list[int]) -> None:
    layout = Layout.of(tmp_path)
    layout.journal.mkdir()
    now_s = 0.0
    child = ShipperChild(layout, now_s=lambda: now_s, chance=lambda: 0.999)
    at: list[float] = []
    for second in range(600):
        now_s = float(second)
        before = len(started)
        child.ensure()
        if len(started) > before:
            at.append(now_s)
            wait_for_end(started[-1])
    pauses = [later - earlier for earlier, later in pairwise(at)]
    assert pauses[:5] == sorted(pauses[:5])
    assert max(pauses) <= SHIPPER_PAUSE_MAX_S + 4
    # Every two seconds would be three hundred.
    assert 10 < len(started) < 20
    child.ensure(now=True)
    assert len(started) == len(at) + 1


def test_where_no_thread_can_be_started_every_row_is_recorded_sealed_and_shipped(
    tmp_path: Path, started: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Python 3.12 none starts once the main thread has ended, and a process may have as many as it may have."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    usage = Recorder(tmp_path, segment_bytes=1 << 16)
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        for number in range(1, 9001):
            usage.record("tokens", tenant="acme", quantity=number, ack="disk" if number == 5000 else None)
        assert len(list(tmp_path.glob("journal/p-*/*.sealed"))) == 4
        assert usage.health().recorded == 9000
    assert len(started) == 1
    for number in range(9001, 12001):
        usage.record("tokens", tenant="acme", quantity=number)
    # There is a thread to start again.
    assert any(thread.name == "tallybook-keeper" for thread in threading.enumerate())
    usage.close()
    ship_all(tmp_path)
    assert arrived(tmp_path) == {"acme": once_each(12000)}
