"""What was dropped for want of room is told to the lake exactly, whatever kills the process after it dropped."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from metering.drops import PLACE_BYTES, Drops, make_place, read_drops, write_drops
from metering.journal import Row
from metering.journal_format import WHOLE, Chain
from metering.lake import Lake
from metering.layout import Layout
from metering.producer import Producer
from metering.segments import ProducerFolder
from metering.ship import ship
from tests.crash.workspace import REPOSITORY, arrived, journal_is_empty, once_each, ship_all


def record_until(root: Path, *, dropped: int, segments: int, ending: str) -> int:
    """Let a process fill a tiny journal, drop so many events, and end; return how many events it recorded."""
    command = [sys.executable, "-m", "tests.crash.children", "drop", root, dropped, segments, ending]
    done = subprocess.run([str(word) for word in command], cwd=REPOSITORY, check=False, stdout=subprocess.PIPE)
    assert done.returncode in {0, -signal.SIGKILL}
    return int(done.stdout)


def told(root: Path) -> list[int]:
    return [row["dropped"] for row in Lake(Layout.of(root).lake).segments().sort_by("segment").to_pylist()]


@pytest.mark.parametrize("ending", ["sigkill", "os._exit", "return", "sealed, sigkill", "shipped, sigkill"])
def test_drops_after_the_last_seal_are_told_exactly(tmp_path: Path, ending: str) -> None:
    recorded = record_until(tmp_path, dropped=137, segments=2, ending=ending)
    assert recorded > 1000
    ship_all(tmp_path)
    # The newest trailer of a producer tells all drops of its life.
    assert told(tmp_path)[-1] == max(told(tmp_path)) == 137
    assert arrived(tmp_path) == {"acme": once_each(recorded)}
    assert journal_is_empty(tmp_path)
    rows = Lake(Layout.of(tmp_path).lake).segments().sort_by("segment")
    assert rows["rows_before"].to_pylist()[-1] + rows["rows"].to_pylist()[-1] == recorded
    ship_all(tmp_path)
    assert told(tmp_path)[-1] == 137


class Killed(BaseException):
    """Stands for a SIGKILL between two steps of the shipper."""


def test_a_shipper_killed_before_any_step_tells_them_once(tmp_path: Path) -> None:
    place, is_done = 0, False
    while not is_done:
        root, steps = tmp_path / str(place), iter(range(place))
        die_dropping(root, 5)

        def on_step(name: str, steps: object = steps) -> None:
            if next(steps, None) is None:  # type: ignore[call-overload]
                raise Killed(name)

        layout = Layout.of(root)
        try:
            ship(layout, Lake(layout.lake, on_step=on_step), on_step=on_step)
            is_done = True
        except Killed:
            ship_all(root)
        assert told(root) == [0, 5]
        assert arrived(root) == {"acme": once_each(1)}
        assert journal_is_empty(root)
        place += 1
    assert place > 5


def die_dropping(root: Path, count: int) -> None:
    """Leave a producer that sealed one segment, dropped so many events, and was killed."""
    producer = Producer(root / "journal", segment_bytes=1 << 16, bytes_max=1 << 30, now_us=lambda: 5)
    producer.open_segment().append(Row(b"tokens\nacme\n", WHOLE, 1, None, 1000, 1000, None))
    producer.seal_before()
    producer.dropped = count
    producer._close_files()


def test_a_folder_is_not_removed_before_its_drops_are_told(tmp_path: Path) -> None:
    die_dropping(tmp_path, 3)
    (sealed,) = tmp_path.glob("journal/p-*/*.sealed")
    sealed.unlink()
    with ProducerFolder(sealed.parent) as folder:
        # It died between the first look at it and the last of one pass.
        assert not folder.remove_if_empty()
        assert folder.recover(9) == 1
        assert folder.recover(9) == 0
    ship_all(tmp_path)
    assert told(tmp_path) == [3]
    assert journal_is_empty(tmp_path)


def test_the_count_survives_only_whole(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    drops = Drops(7, 5, 3, Chain(100, "ab" * 32))
    with path.open("w+b") as file:
        assert read_drops(file.fileno()) == Drops()
        make_place(file.fileno())
        assert read_drops(file.fileno()) == Drops()
        write_drops(file.fileno(), drops)
        assert read_drops(file.fileno()) == drops
        assert not drops.are_told
        assert os.fstat(file.fileno()).st_size == PLACE_BYTES
        place = random.Random(1).randrange(60)
        byte = os.pread(file.fileno(), 1, place)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1]), place)
        assert read_drops(file.fileno()) == Drops()


def test_a_signal_handler_that_drops_in_the_midst_of_a_drop_counts_too(tmp_path: Path) -> None:
    assert record_until(tmp_path, dropped=20_000, segments=1, ending="signals, sigkill") > 1000
    ship_all(tmp_path)
    assert told(tmp_path)[-1] == int((tmp_path / "dropped").read_text()) >= 20_000
