"""Forks, exits, threads and signals: whatever becomes of a process, what it recorded is counted once."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.crash.workspace import arrived, journal_is_empty, once_each, run, ship_all


@pytest.mark.parametrize("command", ["fork", "fork_in_c"])
def test_a_forked_child_is_a_producer_of_its_own(tmp_path: Path, command: str) -> None:
    assert run(command, tmp_path) == 0
    shipped = ship_all(tmp_path)
    assert shipped.rows == 300
    assert arrived(tmp_path) == {tenant: once_each(100) for tenant in ("before", "child", "parent")}
    assert journal_is_empty(tmp_path)


def test_a_bound_meter_made_before_a_fork_counts_in_every_child(tmp_path: Path) -> None:
    assert run("fork_with_bound", tmp_path) == 0
    ship_all(tmp_path)
    expected = [1, 2, *(1000 * (place + 1) + number for place in range(3) for number in range(100))]
    assert arrived(tmp_path) == {"shared": Counter(expected)}


def test_greenlets_that_go_on_in_a_forked_child_keep_the_child_s_journal_only(tmp_path: Path) -> None:
    pytest.importorskip("gevent")
    assert run("fork_among_greenlets", tmp_path) == 0
    ship_all(tmp_path)
    assert arrived(tmp_path) == {tenant: once_each(5000) for tenant in ("parent", "child")}
    assert journal_is_empty(tmp_path)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing(tmp_path: Path, method: str) -> None:
    assert run("multiprocess", tmp_path, method) == 0
    ship_all(tmp_path)
    assert arrived(tmp_path) == {tenant: once_each(100) for tenant in ("parent", "child-0", "child-1")}


@pytest.mark.parametrize(
    ("how", "status"),
    [("return", 0), ("exception", 0), ("os._exit", 0), ("sigterm", -signal.SIGTERM), ("abort", -signal.SIGABRT)],
)
def test_however_a_process_ends_its_rows_stay(tmp_path: Path, how: str, status: int) -> None:
    assert run("end", tmp_path, how) == status
    assert ship_all(tmp_path).rows == 100
    assert arrived(tmp_path) == {"only": once_each(100)}


def test_threads_that_race_through_rolls_and_seals(tmp_path: Path) -> None:
    assert run("threads", tmp_path, 4) == 0
    ship_all(tmp_path)
    assert arrived(tmp_path) == {f"thread-{place}": once_each(5000) for place in range(4)}


def test_a_signal_handler_may_record_in_the_midst_of_recording(tmp_path: Path) -> None:
    assert run("signals", tmp_path) == 0
    ship_all(tmp_path)
    handled = int((tmp_path / "handled").read_text())
    assert handled > 0
    assert arrived(tmp_path) == {"main": once_each(20000), "handler": once_each(handled)}
