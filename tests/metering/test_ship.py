"""The shipper: everything sealed arrives once, damage is set aside, the journal is tidied behind it."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from metering.clock import FixedClock
from metering.keeper import is_led
from metering.lake import Lake
from metering.layout import Layout
from metering.meters import MeterRule, publish_rules
from metering.recorder import Recorder
from metering.segments import quarantined
from metering.ship import Shipped, main, ship
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
    assert second["previous_sha256"] is not None
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
