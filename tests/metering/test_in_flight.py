"""What is in the journal and not in the lake: each row once, whatever its process or the shipper is doing just now."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from metering.in_flight import in_flight
from metering.journal import Row, Segment, pack_event
from metering.journal_format import PAGE, SLOT, WHOLE, Header
from metering.layout import Layout
from metering.recorder import Recorder


def row(quantity: int) -> Row:
    return Row(b"calls\nacme\n", WHOLE, quantity, None, 1000, 1000, None)


@pytest.fixture
def segment(tmp_path: Path) -> Iterator[Segment]:
    path = tmp_path / "journal" / "p-0" / "000000000001.open"
    path.parent.mkdir(parents=True)
    made = Segment.create(path, Header("p-0", 1, "journal", 0, 64))
    yield made
    made.release()


def quantities(root: Path) -> list[int]:
    return [int(one) for batch in in_flight(Layout.of(root), None, 5) for one in batch.events["quantity"].to_pylist()]


def test_a_row_that_is_recorded_again_in_the_next_segment_is_not_seen_in_both(tmp_path: Path, segment: Segment) -> None:
    assert segment.append(row(1))
    hole = segment.claim()
    assert segment.append(row(2))
    segment.close_to_writers(patience_s=0.0)
    # A thread comes back from a long sleep; it finds that its slot does not count, and goes to the next segment.
    series = segment.define(b"calls\nacme\n")
    pack_event(segment.pages, hole, 3, 1000, 3 ^ 1000 ^ series, series, WHOLE)
    assert not segment.holds(hole)
    assert not segment.append(row(4))
    assert segment.claimed_to > PAGE + 3 * SLOT
    assert quantities(tmp_path) == [1, 2]


def test_a_producer_that_is_tidied_away_meanwhile_is_passed_over(tmp_path: Path) -> None:
    recorders = [Recorder(tmp_path, ship="none", seal_interval_s=3600.0) for _ in range(2)]
    for usage in recorders:
        usage.record("calls", tenant="acme")
        usage.close()
    found = in_flight(Layout.of(tmp_path), None, 5)
    first = next(found)
    for folder in (tmp_path / "journal").glob("p-*"):
        if folder.name != first.producer_id:
            shutil.rmtree(folder)
    assert list(found) == []
