"""A lake that answers late, fails between its steps, or lies about having failed: each event counts once all the same."""

from __future__ import annotations

import contextlib
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from metering import lake_table
from metering.batch import SegmentBatch
from metering.errors import LakeUnavailable
from metering.lake import Appended, Lake
from metering.layout import Layout
from metering.recorder import Recorder
from metering.ship import ship
from tests.crash.workspace import arrived, journal_is_empty, once_each, ship_all

FAULTS = ("none", "before", "lies", "between", "late", "late and lies", "commit lies", "twice")


class LakeThatLies(Lake):
    """The lake, and one fault per append. `faults` counts those that happened."""

    def __init__(self, layout: Layout, chance: random.Random) -> None:
        super().__init__(layout.lake, on_step=self._before_step, pause=lambda _seconds: None)
        self._layout = layout
        self._chance = chance
        self._fault = "none"
        self._steps_left = 0
        self.faults: Counter[str] = Counter()

    def append(self, batches: Sequence[SegmentBatch]) -> Appended:
        self._fault = self._chance.choice(FAULTS) if batches else "none"
        self._steps_left = self._chance.randrange(12)
        if self._fault == "before":
            self._fail("cannot be reached")
        appended = super().append([*batches, *batches] if self._fault == "twice" else batches)
        if self._fault == "twice":
            assert super().append(batches).segments == 0
            self.faults["twice"] += 1
        if self._fault in {"lies", "late and lies"}:
            self._fail("timed out, says who committed")
        return appended

    def _before_step(self, name: str) -> None:
        self._steps_left -= 1
        if self._steps_left >= 0:
            return
        if self._fault == "between":
            self._fail(f"went away before {name}")
        if self._fault.startswith("late"):
            # While this commit is on its way, another shipper finds the same segments, and commits and deletes them.
            self._fault = "none" if self._fault == "late" else "lies"
            self.faults["late"] += 1
            ship(self._layout, Lake(self._layout.lake, pause=lambda _seconds: None))
        if self._fault == "commit lies" and name.endswith("commit"):
            self._lie_once()

    def _lie_once(self) -> None:
        """Let the next commit be done, and its answer be lost."""
        self._fault = "none"
        self.faults["commit lies"] += 1
        commit = lake_table.LakeTable.commit

        def lost(*arguments: object) -> None:
            lake_table.LakeTable.commit = commit  # type: ignore[method-assign]
            commit(*arguments)  # type: ignore[arg-type]
            raise LakeUnavailable("the answer was lost")

        lake_table.LakeTable.commit = lost  # type: ignore[method-assign, assignment]

    def _fail(self, why: str) -> None:
        self.faults[self._fault] += 1
        raise LakeUnavailable(f"the lake {why}")


def ship_through_faults(root: Path, passes: int, seed: int) -> tuple[int, Counter[str]]:
    """Record and ship in turn, with a fault in most passes; return how many events and which faults there were."""
    layout, chance = Layout.of(root), random.Random(seed)
    lake = LakeThatLies(layout, chance)
    recorders = [Recorder(root, ship="none", segment_bytes=1 << 16, seal_interval_s=3600.0) for _ in range(3)]
    number = 0
    for _ in range(passes):
        place = chance.randrange(len(recorders))
        for _ in range(chance.randrange(1, 5)):
            number += 1
            recorders[place].record("tokens", tenant="acme", quantity=number)
            if chance.random() < 0.5:
                recorders[place].seal()
        if chance.random() < 0.1:
            recorders[place].close()
            recorders[place] = Recorder(root, ship="none", segment_bytes=1 << 16, seal_interval_s=3600.0)
        with contextlib.suppress(LakeUnavailable):
            ship(layout, lake)
    for usage in recorders:
        usage.close()
    assert ship_all(root).quarantined == ()
    assert arrived(root) == {"acme": once_each(number)}
    stored = Lake(layout.lake).segments().select(["producer_id", "segment", "rows"])
    assert len({(row["producer_id"], row["segment"]) for row in stored.to_pylist()}) == stored.num_rows
    assert sum(stored["rows"].to_pylist()) == number
    assert not (root / "quarantine").exists()
    assert journal_is_empty(root)
    return number, lake.faults


def test_a_lake_that_lies_counts_each_event_once(fast_disk: Path) -> None:
    events, faults = ship_through_faults(fast_disk, passes=30, seed=7)
    assert events > 30
    assert len(faults) >= 4


@pytest.mark.prove
@pytest.mark.timeout(1100)
def test_thousands_of_passes_over_a_lake_that_lies(fast_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    total: Counter[str] = Counter()
    events = 0
    for seed in range(20):
        some, faults = ship_through_faults(fast_disk / str(seed), passes=150, seed=seed)
        events, total = events + some, total + faults
    said = ", ".join(f"{count} {name}" for name, count in sorted(total.items()))
    with capsys.disabled():
        sys.stdout.write(f"\n3000 passes, {events} events, faults: {said}: 0 lost, 0 doubled\n")


def test_a_segment_that_is_offered_again_after_it_was_shipped_is_dropped(tmp_path: Path) -> None:
    with Recorder(tmp_path, ship="none", seal_interval_s=3600.0) as usage:
        usage.record("tokens", tenant="acme", quantity=1)
        usage.seal()
        (path,) = tmp_path.glob("journal/p-*/*.sealed")
        content = path.read_bytes()
        assert ship_all(tmp_path).segments == 1
        path.write_bytes(content)
        assert ship_all(tmp_path).segments == 0
        assert not path.exists()
    assert arrived(tmp_path) == {"acme": once_each(1)}
