"""What the sweeps and a reading of the code found. The marks are strict: who repairs one takes its mark away."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from metering import lake_table
from metering.errors import JournalFull, NotYetDurable
from metering.journal import Row
from metering.journal_format import WHOLE
from metering.lake import Lake
from metering.layout import Layout
from metering.producer import Producer
from metering.recorder import Recorder
from metering.ship import ship
from tests.crash.faults import Workshop, needs_loop, needs_strace
from tests.crash.test_faults_disk import empty_disk, mounted
from tests.crash.workspace import arrived, journal_is_empty, once_each, ship_all

FOR_EVER = 3600.0


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    with Workshop(tmp_path_factory.mktemp("workshop")) as here:
        yield here


def alone(root: Path) -> Recorder:
    """A recorder whose keeper does nothing by itself."""
    return Recorder(
        root, ship="none", segment_bytes=1 << 16, flush_interval_s=FOR_EVER, seal_interval_s=FOR_EVER
    )  # fmt: skip


def a_producer(root: Path) -> Producer:
    return Producer(root / "journal", segment_bytes=1 << 16, bytes_max=1 << 30, now_us=lambda: 0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_keeper_outlives_a_lock_that_it_may_not_open(tmp_path: Path) -> None:
    (tmp_path / "journal" / "ship.lock").mkdir(parents=True)
    usage = Recorder(tmp_path, seal_interval_s=FOR_EVER)
    try:
        usage.record("calls", tenant="acme")
        keeper = usage._keeper
        assert keeper is not None
        keeper._thread.join(0.3)
        assert keeper._thread.is_alive()
    finally:
        with contextlib.suppress(OSError):
            usage.close()


@needs_strace
def test_whatever_refuses_a_new_producer_is_a_full_journal(workshop: Workshop, tmp_path: Path) -> None:
    said, faults, _ = workshop.run("record", tmp_path / "few", inject="openat:error=EMFILE:when=3+", count=20)
    assert faults
    assert said.surprises == []


@needs_strace
def test_refusals_leave_no_file_open(workshop: Workshop, tmp_path: Path) -> None:
    said, faults, _ = workshop.run("record", tmp_path / "sick", inject="fsync:error=EIO:when=1+", count=200)
    assert faults
    assert said.files_left_open < 10


@needs_strace
def test_refusals_leave_no_folder(workshop: Workshop, tmp_path: Path) -> None:
    root = tmp_path / "sick"
    workshop.run("record", root, inject="rename:error=EIO:when=1+", count=50)
    ship_all(root)
    assert journal_is_empty(root)


@needs_strace
def test_spares_that_cannot_be_renamed_are_let_go(workshop: Workshop, tmp_path: Path) -> None:
    """Segments that cannot be sealed stay open, and must; a spare that cannot become one takes no room for nothing."""
    _, faults, _ = workshop.run("record", tmp_path / "sick", inject="rename:error=EIO:when=2+", count=2000)
    assert faults > 20
    assert len(list((tmp_path / "sick").rglob("*.spare"))) <= 1


def test_many_dead_producers_ship_with_few_open_files(workshop: Workshop, tmp_path: Path) -> None:
    for number in range(60):
        with alone(tmp_path) as usage:
            usage.record("calls", tenant=f"tenant-{number}")
    said, _, _ = workshop.run("ship", tmp_path, limits={"RLIMIT_NOFILE": 64})
    assert said.surprises == []
    assert journal_is_empty(tmp_path)


def test_a_shipper_out_of_files_says_that_a_retry_helps(workshop: Workshop, tmp_path: Path) -> None:
    root = tmp_path / "few"
    workshop.run("record", root, count=20)
    said, _, _ = workshop.run("ship", root, limits={"RLIMIT_NOFILE": 6})
    assert said.surprises == []


def test_a_flush_waits_for_the_name_that_another_flush_makes_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer, fsync = a_producer(tmp_path), os.fsync
    producer.prepare_spare()
    producer.open_segment()
    is_inside, may_go, steps = threading.Event(), threading.Event(), []

    def slow_fsync(file: int) -> None:
        is_inside.set()
        may_go.wait(10)
        fsync(file)
        steps.append("the name is on the disk")

    monkeypatch.setattr(os, "fsync", slow_fsync)
    first = threading.Thread(target=producer.sync)
    first.start()
    is_inside.wait(10)

    def second_flush() -> None:
        producer.sync()
        steps.append("the second flush returned")

    second = threading.Thread(target=second_flush)
    second.start()
    # Long enough for one that does not wait; one that does is let go below.
    second.join(0.3)
    may_go.set()
    first.join()
    second.join()
    producer.close()
    assert steps[0] == "the name is on the disk"


def test_a_flush_whose_folder_cannot_be_fsynced_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = alone(tmp_path)
    usage.record("calls", tenant="acme")
    assert usage._producer is not None
    usage._producer.prepare_spare()
    usage.seal()
    usage.record("calls", tenant="acme")

    def sick(_file: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", sick)
        with pytest.raises(NotYetDurable):
            usage.flush()


@needs_strace
def test_the_first_flush_makes_the_names_of_all_new_folders_durable(tmp_path: Path) -> None:
    root, log = tmp_path / "new" / "workspace", tmp_path / "calls"
    code = (
        f"import os; from metering import Recorder; usage = Recorder({str(root)!r}, ship='none')\n"
        "usage.record('calls', tenant='acme'); usage.flush(); os._exit(0)"
    )
    command = ["strace", "-f", "-y", "-qq", "-o", str(log), "-e", "trace=fsync,fdatasync", sys.executable, "-c", code]
    subprocess.run(command, check=True)
    synced = {line.partition("<")[2].partition(">")[0] for line in log.read_text().splitlines()}
    assert synced >= {str(root), str(root.parent), str(tmp_path)}


class Cut(BaseException):
    """The power goes."""


@needs_loop
def test_a_power_cut_in_a_checkpoint_leaves_a_lake_that_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lake_table, "COMMITS_PER_CHECKPOINT", 3)
    disk, cut, settle = empty_disk(tmp_path / "disk.img"), tmp_path / "cut.img", lake_table.settle_file
    checkpoints: list[Path] = []
    recorded: list[int] = []
    with mounted(tmp_path / "live", "-o", "loop,commit=300", str(disk)) as live:
        layout = Layout.of(live / "workspace")

        def settle_or_cut(path: Path) -> None:
            if path.match("*usage_events/_delta_log/*.checkpoint.parquet"):
                checkpoints.append(path)
                if len(checkpoints) == 2:
                    # Any flush on the same disk commits its journal: a recorder does that ten times a second.
                    with (live / "neighbour").open("wb") as file:
                        file.write(b"x")
                        file.flush()
                        os.fsync(file.fileno())
                    shutil.copyfile(disk, cut)
                    raise Cut
            settle(path)

        def ship_until_cut() -> None:
            for number in range(1, 100):
                recorded.append(number)
                with alone(layout.root) as usage:
                    usage.record("tokens", tenant="acme", quantity=number)
                ship(layout, Lake(layout.lake))

        with monkeypatch.context() as patched:
            patched.setattr(lake_table, "settle_file", settle_or_cut)
            with pytest.raises(Cut):
                ship_until_cut()
    with mounted(tmp_path / "after", "-o", "loop", str(cut)) as after:
        ship_all(after / "workspace")
        assert arrived(after / "workspace") == {"acme": once_each(len(recorded))}


def test_a_refused_batch_leaves_no_rows_missing(tmp_path: Path) -> None:
    producer = a_producer(tmp_path)
    number = producer.reserve_batch()
    # Another thread opens the next segment before the batch is written.
    following = producer.open_segment()
    following.append(Row(b"calls\nacme\n", WHOLE, 1, None, 1000, 1000, None))
    obstacle = producer.folder / f"{number:012d}.sealed"
    obstacle.mkdir()
    with pytest.raises(JournalFull):
        producer.write_batch(number, 10, memoryview(b"x" * 100))
    obstacle.rmdir()
    producer._close_files()
    ship_all(tmp_path)
    segments = Lake(Layout.of(tmp_path).lake).segments()
    assert segments["rows_before"].to_pylist() == [0]


def test_a_refused_close_can_be_tried_again(tmp_path: Path) -> None:
    usage = alone(tmp_path)
    usage.record("tokens", tenant="acme", quantity=1)
    assert usage._producer is not None
    obstacle = usage._producer.folder / "000000000001.sealed"
    obstacle.mkdir()
    with pytest.raises(JournalFull):
        usage.close()
    obstacle.rmdir()
    usage.close()
    assert ship_all(tmp_path).rows == 1
