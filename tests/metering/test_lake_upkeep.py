"""Compaction and vacuum change files, never rows, cuts or transactions; races with appends in both directions."""

from __future__ import annotations

import os
import time
from datetime import date
from pathlib import Path

import pytest
from deltalake.transaction import RemoveAction

from metering.errors import LakeDamaged
from metering.lake import Lake
from metering.lake_upkeep import Compacted, Maintained
from tests.metering.lake_batches import segment_batch
from tests.metering.test_lake import Killed, identities, stored


def filled(root: Path, segments: int = 4) -> Lake:
    lake = Lake(root)
    for segment in range(1, segments + 1):
        lake.append([segment_batch("a", segment, rows=4, dead=1, days=2), segment_batch("b", segment, rows=1)])
    return lake


def age(root: Path, days: int) -> None:
    """Make every file look as old as it would be after so many days."""
    then = time.time() - days * 86_400
    for path in root.rglob("*"):
        os.utime(path, (then, then))


def test_compaction_and_vacuum_keep_rows_cut_and_trailers_byte_for_byte(tmp_path: Path) -> None:
    lake = filled(tmp_path)
    before = (stored(lake), lake.cut(), lake.segments(), lake.dead_letters())
    assert len(lake.data_files()) == 8

    # Per partition of usage_events 4 -> 1, and 4 -> 1 for segments and dead letters.
    assert lake.compact() == Compacted(files_before=16, files_after=4)
    assert len(lake.data_files()) == 2
    assert lake.vacuum(retention_hours=0) == 16

    fresh = Lake(tmp_path)
    after = (stored(fresh), fresh.cut(), fresh.segments(), fresh.dead_letters())
    for old, new in zip(before, after, strict=True):
        assert old == new
    assert len(list(tmp_path.rglob("part-*.parquet"))) == 4


def test_compaction_again_does_nothing(tmp_path: Path) -> None:
    lake = filled(tmp_path)
    lake.compact()

    assert lake.compact() == Compacted(0, 0)


def contents(root: Path) -> dict[Path, int]:
    """Return every file of the lake with the time it was written: what a run of the upkeep touched."""
    return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def test_maintaining_twice_touches_nothing_the_second_time(tmp_path: Path) -> None:
    lake = filled(tmp_path)
    before = (stored(lake), lake.cut())
    first = lake.maintain()
    assert (first.files_before, first.files_after, first.rewritten) == (16, 4, 16)
    files = contents(tmp_path)

    second = lake.maintain()

    assert (second.rewritten, second.deleted) == (0, 0)
    assert (second.files_before, second.commits_before) == (second.files_after, second.commits_after)
    assert contents(tmp_path) == files
    assert (stored(lake), lake.cut()) == before


def test_an_empty_lake_needs_no_upkeep(tmp_path: Path) -> None:
    assert Lake(tmp_path / "lake").maintain() == Maintained(0, 0, 0, 0, 0, 0)


def test_one_late_event_does_not_rewrite_its_day(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append([segment_batch("a", 1, rows=100)])
    (large,) = lake.data_files()
    lake.append([segment_batch("a", 2, rows=1)])
    lake.compact()
    assert large in lake.data_files()

    # Late events gather among themselves, until they are worth a rewrite of the day.
    for segment in range(3, 28):
        lake.append([segment_batch("a", segment, rows=1)])
        lake.compact()
        assert len(lake.data_files()) <= 4
    assert large not in lake.data_files()
    assert len(identities(lake)) == 126


def test_segments_stay_known_after_compaction_vacuum_and_log_clean_up(tmp_path: Path) -> None:
    lake = filled(tmp_path)
    lake.compact()
    age(tmp_path, days=60)
    lake.vacuum()
    lake.append([segment_batch("c", 1)])
    age(tmp_path, days=60)
    lake.vacuum()
    log = tmp_path / "usage_events" / "_delta_log"
    assert not (log / f"{0:020d}.json").exists()

    again = Lake(tmp_path)
    rows = stored(again).num_rows
    assert again.append([segment_batch("a", 4), segment_batch("b", 4)]).segments == 0
    assert again.append([segment_batch("a", 5)]).segments == 1
    assert again.cut() == {"a": 5, "b": 4, "c": 1}
    assert stored(again).num_rows == rows + 3


def test_an_append_that_lands_during_a_compaction_is_kept(tmp_path: Path) -> None:
    filled(tmp_path)
    late = [segment_batch("a", 5), segment_batch("new", 1, dead=1)]

    def interfere(step: str) -> None:
        if step == "usage_events: commit compaction" and late:
            Lake(tmp_path).append([late.pop(), late.pop()])

    lake = Lake(tmp_path, on_step=interfere)
    expected = set(identities(lake)) | {(p, s, row) for p, s in (("a", 5), ("new", 1)) for row in range(3)}
    lake.compact()

    assert sorted(expected) == identities(lake)
    assert lake.cut() == {"a": 5, "b": 4, "new": 1}


def test_a_compaction_that_lands_during_an_append_removes_nothing_of_it(tmp_path: Path) -> None:
    filled(tmp_path)
    attempts: list[str] = []

    def interfere(step: str) -> None:
        attempts.append(step)
        if step == "usage_events: commit" and attempts.count(step) == 1:
            Lake(tmp_path).compact()

    lake = Lake(tmp_path, on_step=interfere)
    expected = [*identities(lake), ("a", 5, 0), ("a", 5, 1), ("a", 5, 2)]
    lake.append([segment_batch("a", 5)])

    assert identities(lake) == sorted(expected)
    # The append was not even refused: a compaction reads and removes nothing that an append depends on.
    assert attempts.count("usage_events: commit") == 1


def test_of_two_compactions_of_the_same_files_one_wins(tmp_path: Path) -> None:
    filled(tmp_path)
    rivals = [Lake(tmp_path)]

    def interfere(step: str) -> None:
        if step == "usage_events: commit compaction" and rivals:
            rivals.pop().compact()

    lake = Lake(tmp_path, on_step=interfere, pause=lambda _seconds: None)
    expected = identities(lake)
    lake.compact()

    assert identities(lake) == expected
    assert len(lake.data_files()) == 2


def test_a_compaction_killed_before_its_commit_changes_nothing(tmp_path: Path) -> None:
    def crash(step: str) -> None:
        if step == "usage_events: commit compaction":
            raise Killed(step)

    lake = filled(tmp_path)
    files = lake.data_files()
    with pytest.raises(Killed):
        Lake(tmp_path, on_step=crash).compact()

    assert lake.data_files() == files
    lake.compact()
    assert len(identities(lake)) == len(set(identities(lake))) == 20


def test_damaged_bytes_are_not_given_a_fresh_hash(tmp_path: Path) -> None:
    lake = filled(tmp_path)
    path = Path(lake.data_files()[0].path)
    content = bytearray(path.read_bytes())
    content[20] ^= 4
    path.write_bytes(content)

    with pytest.raises(LakeDamaged):
        Lake(tmp_path).compact()
    assert path.exists()


def test_vacuum_leaves_young_files_and_removes_old_orphans(tmp_path: Path) -> None:
    lake = filled(tmp_path, segments=1)
    folder = tmp_path / "usage_events" / "event_date=2026-10-01"
    orphans = [
        folder / f"part-{'0' * 32}-{'0' * 64}.parquet",
        folder / ".tmp-0123.parquet",
        tmp_path / "usage_events" / "_delta_log" / f"{99:020d}.json#1",
    ]
    for orphan in orphans:
        orphan.write_bytes(b"left behind")
    assert lake.vacuum() == 0

    age(tmp_path, days=30)
    assert lake.vacuum() == 3
    assert not any(orphan.exists() for orphan in orphans)
    assert len(identities(lake)) == 5


def test_files_replaced_within_the_retention_stay_readable(tmp_path: Path) -> None:
    lake = filled(tmp_path)
    files = lake.data_files()
    age(tmp_path, days=30)
    lake.compact()

    assert lake.vacuum() == 0
    lake.verify(files)


def test_deltalake_alone_accepts_two_compactions_of_the_same_files(tmp_path: Path) -> None:
    """Why the compaction carries a transaction of its own: without it, both commits land and every row counts twice."""
    lake = filled(tmp_path, segments=2)
    table = lake._events
    groups = []
    for _ in range(2):
        handle = table.open()
        assert handle is not None
        groups.append((handle, [file for file in table.files(handle) if file.event_date == date(2026, 10, 1)]))
    for handle, group in groups:
        names = [str(Path(file.path).relative_to(table.folder)) for file in group]
        removed = [RemoveAction(name, False, 0, None, {"event_date": "2026-10-01"}) for name in names]
        table.commit(handle, [*table.write(table.read(group)), *removed], {})

    seen = identities(lake)
    assert len(seen) > len(set(seen))
