"""The shipper: everything sealed arrives once, damage is set aside, the journal is tidied behind it."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from metering import decode, lake_rows
from metering.backoff import full_jitter_s
from metering.batch import SegmentBatch
from metering.clock import FixedClock
from metering.keeper import is_led
from metering.lake import Lake
from metering.layout import Layout
from metering.meters import MeterRule, publish_rules
from metering.recorder import Recorder
from metering.segments import UNBORN_US, StoredSegment, quarantine, quarantined, remove_unborn
from metering.ship import Shipped, _in_turn, main, ship, watch
from tests.crash.workspace import arrived, journal_is_empty

NOON = datetime(2026, 10, 1, 12, tzinfo=UTC)


def recorder(root: Path, **settings: Any) -> Recorder:
    chosen: dict[str, Any] = {"ship": "none", "seal_interval_s": 3600.0, "clock": FixedClock(NOON), **settings}
    return Recorder(root, **chosen)


def ship_all(root: Path) -> Shipped:
    layout = Layout.of(root)
    return ship(layout, Lake(layout.lake), FixedClock(NOON))


def test_an_empty_workspace_ships_nothing(tmp_path: Path) -> None:
    assert ship_all(tmp_path) == Shipped()


def test_shipping_twice_adds_nothing(tmp_path: Path) -> None:
    with recorder(tmp_path) as usage:
        usage.record("api", tenant="acme")
        assert usage.ship_now() == Shipped(1, 1, 0)
        assert usage.ship_now() == Shipped()
        usage.record("api", tenant="acme")
    assert ship_all(tmp_path) == Shipped(1, 1, 0)
    assert ship_all(tmp_path) == Shipped()
    assert journal_is_empty(tmp_path)


def test_a_live_producer_keeps_its_open_segment_and_its_folder(tmp_path: Path) -> None:
    with recorder(tmp_path) as usage:
        usage.record("api", tenant="acme", quantity=1)
        usage.seal()
        usage.record("api", tenant="acme", quantity=2)
        assert ship_all(tmp_path).rows == 1
        assert len(list(tmp_path.glob("journal/p-*/*.open"))) == 1
    assert ship_all(tmp_path).rows == 1


def test_the_lake_remembers_segments_with_their_chain_and_totals(tmp_path: Path) -> None:
    with recorder(tmp_path) as usage:
        usage.record("api", tenant="acme", quantity=2)
        usage.seal()
        usage.record("api", tenant="acme", quantity=3)
    ship_all(tmp_path)
    first, second = Lake(tmp_path / "lake").segments().to_pylist()
    assert (first["kind"], first["rows"], first["rows_before"], first["previous_sha256"]) == ("journal", 1, 0, None)
    assert (second["rows"], second["rows_before"]) == (1, 1)
    assert second["previous_sha256"] == first["trailer_sha256"]
    assert second["trailer_sha256"] not in {None, first["trailer_sha256"], second["sha256"]}
    assert [total["quantity"] for total in second["totals"]] == [3]


def test_rows_that_the_catalog_of_now_refuses_become_dead_letters(tmp_path: Path) -> None:
    with recorder(tmp_path) as usage:
        usage.record("api", tenant="acme")
        usage.record("tokens", tenant="acme")
    publish_rules(Layout.of(tmp_path).meters_file, [MeterRule("tokens")])
    assert ship_all(tmp_path) == Shipped(1, 1, 1)
    (letter,) = Lake(tmp_path / "lake").dead_letters().to_pylist()
    assert (letter["reason"], letter["meter"], letter["row"]) == ("unknown_meter", "api", 0)


def test_a_damaged_segment_is_set_aside_and_the_others_arrive(tmp_path: Path) -> None:
    with recorder(tmp_path) as usage:
        for number in range(1, 4):
            usage.record("api", tenant="acme", quantity=number)
            usage.seal()
    damaged = sorted(tmp_path.glob("journal/p-*/*.sealed"))[1]
    content = bytearray(damaged.read_bytes())
    content[4096 + 40] ^= 1
    damaged.write_bytes(content)
    shipped = ship_all(tmp_path)
    assert (shipped.segments, shipped.rows, len(shipped.quarantined)) == (2, 2, 1)
    (aside,) = quarantined(Layout.of(tmp_path))
    assert aside.read_bytes() == content
    assert arrived(tmp_path) == {"acme": {1: 1, 3: 1}}
    # What is missing is known by number: one row between what came before and what the next segment says came before.
    rows = Lake(tmp_path / "lake").segments().select(["segment", "rows", "rows_before"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [(1, 1, 0), (3, 1, 2)]
    assert journal_is_empty(tmp_path)


def test_a_segment_that_was_put_back_too_late_is_kept_not_dropped(tmp_path: Path) -> None:
    with recorder(tmp_path) as usage:
        for number in range(1, 4):
            usage.record("api", tenant="acme", quantity=number)
            usage.seal()
        first = min(tmp_path.glob("journal/p-*/*.sealed"))
        held = first.read_bytes()
        first.unlink()
        assert ship_all(tmp_path).rows == 2
        first.write_bytes(held)
        assert ship_all(tmp_path).quarantined != ()
        assert [path.read_bytes() for path in quarantined(Layout.of(tmp_path))] == [held]


def test_what_is_set_aside_twice_is_kept_twice(tmp_path: Path) -> None:
    layout = Layout.of(tmp_path)
    path = layout.journal / "p-0" / "000000000001.sealed"
    path.parent.mkdir(parents=True)
    for content in (b"first", b"second", b"third"):
        path.write_bytes(content)
        quarantine(layout, path)
    assert sorted(aside.read_bytes() for aside in quarantined(layout)) == [b"first", b"second", b"third"]


def sealed_of(usage: Recorder, numbers: range) -> list[Path]:
    """Record each number into a segment of its own; return those segments."""
    for number in numbers:
        usage.record("api", tenant="acme", quantity=number)
        usage.seal()
    assert usage._producer is not None
    return sorted(usage._producer.folder.glob("*.sealed"))


def hide(path: Path) -> Path:
    """Put something there that exists and cannot be read; return where the segment is meanwhile."""
    hidden = path.parent.parent / "hidden"
    path.rename(hidden)
    path.mkdir()
    return hidden


def show(path: Path, hidden: Path) -> None:
    path.rmdir()
    hidden.rename(path)


def test_a_file_that_cannot_be_read_holds_up_its_own_producer_only(tmp_path: Path) -> None:
    with recorder(tmp_path) as one, recorder(tmp_path) as other:
        (_, second, _), _ = sealed_of(one, range(1, 4)), sealed_of(other, range(11, 14))
        hidden = hide(second)
        shipped = ship_all(tmp_path)
        # What is behind it waits too: the lake takes the segments of a producer in order.
        assert (shipped.segments, shipped.rows, len(shipped.refused)) == (4, 4, 1)
        assert str(second) in shipped.refused[0]
        assert "move it to quarantine/" in shipped.refused[0]
        assert ship_all(tmp_path).refused == shipped.refused
        show(second, hidden)
        assert ship_all(tmp_path) == Shipped(2, 2, 0)
    assert arrived(tmp_path) == {"acme": dict.fromkeys([1, 2, 3, 11, 12, 13], 1)}


def test_a_dead_producer_that_cannot_be_recovered_holds_up_nobody(tmp_path: Path) -> None:
    with recorder(tmp_path) as one, recorder(tmp_path) as other:
        (sealed,), _ = sealed_of(one, range(1, 2)), sealed_of(other, range(11, 14))
        broken = sealed.with_name("000000000002.open")
    broken.mkdir()
    shipped = ship_all(tmp_path)
    assert (shipped.rows, len(shipped.refused)) == (4, 1)
    broken.rmdir()
    assert ship_all(tmp_path) == Shipped()
    assert journal_is_empty(tmp_path)


def test_a_lock_that_cannot_be_opened_holds_up_nobody(tmp_path: Path) -> None:
    with recorder(tmp_path) as one:
        sealed_of(one, range(1, 3))
    strange = tmp_path / "journal" / "p-0"
    (strange / "lock").mkdir(parents=True)
    shipped = ship_all(tmp_path)
    assert (shipped.rows, len(shipped.refused)) == (2, 1)


def test_a_segment_that_nobody_can_decode_holds_up_its_own_producer_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with recorder(tmp_path) as one, recorder(tmp_path) as other:
        (first, _), _ = sealed_of(one, range(1, 3)), sealed_of(other, range(11, 13))
    decode_segment = decode.decode_segment

    def trip(stored: StoredSegment, rules: Any) -> SegmentBatch:
        if stored.path == first:
            raise ZeroDivisionError("a mistake of ours")
        return decode_segment(stored, rules)

    with monkeypatch.context() as patched:
        patched.setattr(decode, "decode_segment", trip)
        shipped = ship_all(tmp_path)
    assert (shipped.rows, len(shipped.refused), list(quarantined(Layout.of(tmp_path)))) == (2, 1, [])
    assert ship_all(tmp_path).rows == 2
    assert journal_is_empty(tmp_path)


@pytest.mark.parametrize("bad", [11, 12, 13])
def test_rows_that_the_lake_cannot_take_hold_up_their_own_producer_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: int
) -> None:
    encode = lake_rows.encode

    def trip(rows: pa.Table, order: Any) -> pa.Table:
        if "quantity" in rows.column_names and bad in rows["quantity"].to_pylist():
            raise pa.ArrowInvalid("a mistake of ours")
        return encode(rows, order)

    recorders = [recorder(tmp_path) for _ in range(3)]
    for place, usage in enumerate(recorders):
        sealed_of(usage, range(10 * place + 1, 10 * place + 4))
    with monkeypatch.context() as patched:
        patched.setattr(lake_rows, "encode", trip)
        shipped = ship_all(tmp_path)
        assert (shipped.rows, len(shipped.refused), shipped.quarantined) == (6 + bad - 11, 1, ())
        assert "a mistake of ours" in shipped.refused[0]
        # What is in the lake is not in the journal any more, and what was recorded since goes on its way.
        sealed_of(recorders[0], range(4, 6))
        assert (ship_all(tmp_path).rows, len(list(tmp_path.glob("journal/p-*/*.sealed")))) == (2, 14 - bad)
    assert ship_all(tmp_path) == Shipped(14 - bad, 14 - bad, 0)
    for usage in recorders:
        usage.close()
    assert ship_all(tmp_path) == Shipped()
    expected = [1, 2, 3, 4, 5, 11, 12, 13, 21, 22, 23]
    assert arrived(tmp_path) == {"acme": dict.fromkeys(expected, 1)}
    assert journal_is_empty(tmp_path)


def test_a_backlog_goes_in_bounded_commits_all_producers_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metering.ship.SEGMENTS_PER_COMMIT", 5)
    with recorder(tmp_path) as one, recorder(tmp_path) as other:
        sealed_of(one, range(1, 21))
        sealed_of(other, range(101, 104))
        layout, steps = Layout.of(tmp_path), []
        shipped = ship(layout, Lake(layout.lake), FixedClock(NOON), on_step=steps.append)
    assert shipped == Shipped(23, 23, 0)
    assert steps.count("append") == 5
    commits = [list(group) for is_end, group in groupby(steps, "append".__eq__) if not is_end]
    assert [len(group) for group in commits[:5]] == [5, 5, 5, 5, 3]
    # Whoever has little to ship does not wait for whoever has much.
    long, short = [Path("a1"), Path("a2"), Path("a3")], [Path("b1")]
    assert _in_turn([long, short]) == [Path("a1"), Path("b1"), Path("a2"), Path("a3")]


def test_a_commit_is_bounded_in_rows_however_few_bytes_they_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metering.ship.ROWS_PER_COMMIT", 20)
    rows = {"tenant_id": ["acme"] * 10, "meter": ["api"] * 10, "quantity": [1] * 10}
    table = pa.table(rows | {"event_time": pa.array([NOON] * 10, pa.timestamp("us", tz="UTC"))})
    with recorder(tmp_path) as usage:
        for _ in range(5):
            usage.record_batch(table)
    layout, steps = Layout.of(tmp_path), []
    assert ship(layout, Lake(layout.lake), FixedClock(NOON), on_step=steps.append) == Shipped(5, 50, 0)
    assert steps.count("append") == 3


def test_a_segment_of_a_later_release_waits_for_a_shipper_that_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with recorder(tmp_path) as usage, monkeypatch.context() as later:
        later.setattr("metering.producer.BATCH_FORMAT", 3)
        times = pa.array([NOON], pa.timestamp("us", tz="UTC"))
        usage.record_batch(pa.table({"tenant_id": ["acme"], "meter": ["api"], "quantity": [1], "event_time": times}))
    shipped = ship_all(tmp_path)
    assert (shipped.rows, shipped.quarantined) == (0, ())
    assert "a later release" in shipped.refused[0]
    monkeypatch.setattr("metering.segments.BATCH_FORMAT", 3)
    assert ship_all(tmp_path) == Shipped(1, 1, 0)


def test_the_wait_after_a_failure_doubles_up_to_a_cap_and_is_drawn_whole() -> None:
    waits = [full_jitter_s(failures, lambda: 0.999, base_s=1.0, cap_s=30.0) for failures in range(1, 9)]
    assert waits == pytest.approx([0.999, 1.998, 3.996, 7.992, 15.984, 29.97, 29.97, 29.97])
    assert full_jitter_s(10**6, lambda: 0.5, base_s=1.0, cap_s=30.0) == 15.0
    assert full_jitter_s(5, lambda: 0.0, base_s=1.0, cap_s=30.0) == 0.0


def test_while_the_lake_is_away_the_leader_waits_ever_longer_and_then_ships_all_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    layout = Layout.of(tmp_path)
    recorders = [recorder(tmp_path) for _ in range(4)]
    for place, usage in enumerate(recorders):
        sealed_of(usage, range(10 * place + 1, 10 * place + 4))
    # Something else is mounted there.
    layout.lake.write_text("not a folder")
    waits: list[float] = []

    def pause(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 7:
            layout.lake.unlink()
            for usage in recorders:
                usage.close()
        else:
            # Nobody stops recording because the lake is away.
            recorders[0].record("api", tenant="acme", quantity=100 + len(waits))

    assert watch(layout, interval_s=0.01, linger_s=0.0, pause=pause, chance=lambda: 0.5) == 0
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    expected = [10 * place + number for place in range(4) for number in range(1, 4)] + list(range(101, 107))
    assert arrived(tmp_path) == {"acme": dict.fromkeys(expected, 1)}
    assert journal_is_empty(tmp_path)
    assert capfd.readouterr().err.count("lake_unavailable") == 7


def test_folders_that_were_never_born_are_removed_when_old_and_free(tmp_path: Path) -> None:
    journal = Layout.of(tmp_path).journal
    for name, files in ((".p-1", []), (".p-2", ["lock"]), (".p-3", ["lock"]), (".p-4", ["lock", "000000000001.open"])):
        (journal / name).mkdir(parents=True)
        for file in files:
            (journal / name / file).touch()
    now_us = int(time.time() * 1e6)
    with (journal / ".p-3" / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        remove_unborn(journal, now_us)
        assert len(list(journal.glob(".p-*"))) == 4
        remove_unborn(journal, now_us + 2 * UNBORN_US)
        # One whose maker holds it, and one that holds more than it can: both stay.
        assert sorted(path.name for path in journal.iterdir()) == [".p-3", ".p-4"]


def test_batches_and_rows_ship_together(tmp_path: Path) -> None:
    instant = pa.timestamp("us", tz="UTC")
    columns = {"tenant_id": ["a", "b"], "meter": ["api"] * 2, "quantity": [10, 20]}
    with recorder(tmp_path) as usage:
        usage.record("api", tenant="a", quantity=1)
        usage.record_batch(pa.table({**columns, "event_time": pa.array([NOON] * 2, instant)}))
    assert ship_all(tmp_path) == Shipped(2, 3, 0)
    assert arrived(tmp_path) == {"a": {1: 1, 10: 1}, "b": {20: 1}}
    assert Lake(tmp_path / "lake").segments()["kind"].to_pylist() == ["journal", "batch"]


def test_the_command_ships_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with recorder(tmp_path) as usage:
        usage.record("api", tenant="acme")
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "1 segments, 1 usage events, 0 dead letters\n"


def test_a_child_ships_what_a_short_script_recorded(tmp_path: Path) -> None:
    """The script ends without closing anything; the shipper that it started goes on until all is in the lake."""
    code = "import sys; from metering.recorder import Recorder; Recorder(sys.argv[1]).record('api', tenant='acme')"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    layout = Layout.of(tmp_path)
    deadline = time.monotonic() + 60
    while not journal_is_empty(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert arrived(tmp_path) == {"acme": {1: 1}}
    while is_led(layout) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_led(layout)
    assert (layout.journal / "ship.log").read_text() == ""


def test_a_second_shipper_leaves_the_work_to_the_first(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "metering.ship", str(tmp_path), "--watch", "--interval", "0.1", "--linger"]
    layout = Layout.of(tmp_path)
    layout.journal.mkdir(parents=True)
    with subprocess.Popen([*command, "30"]) as first:
        deadline = time.monotonic() + 60
        while not is_led(layout) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert subprocess.run([*command, "0"], check=False, timeout=60).returncode == 0
        assert first.poll() is None
        first.kill()


def test_a_side_car_waits_for_the_lead_and_for_producers_for_ever(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "metering.ship", str(tmp_path), "--watch", "--interval", "0.05", "--linger"]
    layout = Layout.of(tmp_path)
    layout.journal.mkdir(parents=True)
    with subprocess.Popen([*command, "30"]) as child:
        deadline = time.monotonic() + 60
        while not is_led(layout) and time.monotonic() < deadline:
            time.sleep(0.05)
        with subprocess.Popen([*command, "inf"]) as side_car:
            with pytest.raises(subprocess.TimeoutExpired):
                side_car.wait(1.5)
            child.kill()
            for number in range(1, 3):
                with recorder(tmp_path) as usage:
                    usage.record("api", tenant="acme", quantity=number)
                while not journal_is_empty(tmp_path) and time.monotonic() < deadline:
                    time.sleep(0.05)
            assert side_car.poll() is None
            side_car.terminate()
    assert arrived(tmp_path) == {"acme": {1: 1, 2: 1}}
