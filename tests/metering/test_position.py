"""Where a recorder is: a cut that includes its position includes every row before it."""

from __future__ import annotations

from pathlib import Path

from metering.clock import SystemClock
from metering.lake import Lake
from metering.recorder import Recorder
from metering.ship import ship


def test_a_cut_that_includes_the_position_includes_every_row_before_it(tmp_path: Path) -> None:
    with Recorder(tmp_path, ship="none", segment_bytes=65536) as usage:
        assert usage.position() is None
        for number in range(5000):
            usage.record("tokens", tenant="acme", quantity=number)
        position = usage.position()
        assert position is not None
        producer, segment = position
        lake = Lake(usage.layout.lake)
        assert lake.cut().get(producer, 0) < segment
        usage.seal()
        ship(usage.layout, lake, SystemClock())
        assert lake.cut()[producer] == segment
        usage.record("tokens", tenant="acme")
        assert usage.position() == (producer, segment + 1)
