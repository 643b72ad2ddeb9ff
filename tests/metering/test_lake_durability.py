"""What is on the disk, and when: data before the commit that names it, the commit before append returns."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from metering.durable import TEMPORARY_PREFIX, settle_file, write_durably
from metering.errors import LakeDamaged, LakeUnavailable
from metering.lake import Lake
from tests.metering.lake_batches import segment_batch
from tests.metering.test_lake import identities


class Disk:
    """The real fsync, which notes the path of each call and fails on demand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.failing = ""
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self._note)

    def _note(self, descriptor: int) -> None:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if self.failing and self.failing in path:
            self.failing = ""
            raise OSError(errno.EIO, "Input/output error", path)
        self.log.append(path)
        self._fsync(descriptor)


pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads the names of descriptors from /proc")


def test_data_is_durable_before_its_commit_and_the_commit_before_append_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Lake(tmp_path).append([segment_batch("a", 1)])
    disk = Disk(monkeypatch)
    known = set(tmp_path.rglob("*"))

    Lake(tmp_path, on_step=disk.log.append).append([segment_batch("a", 2, dead=1, days=2)])

    for name in ("dead_letters", "segments", "usage_events"):
        table = tmp_path / name
        before = disk.log[: disk.log.index(f"{name}: commit")]
        after = disk.log[disk.log.index(f"{name}: settle") :]
        data = [path for path in set(table.rglob("*.parquet")) - known if "_delta_log" not in path.parts]
        assert data
        temporary = [path for path in before if f"/{name}/" in path and Path(path).name.startswith(TEMPORARY_PREFIX)]
        assert len(temporary) == len(data)
        assert {str(folder) for path in data for folder in (path.parent, table, tmp_path)} <= set(before)
        commits = set((table / "_delta_log").glob("*.json")) - known
        assert commits
        assert {str(path) for path in commits} <= set(disk.log)
        assert {str(max(commits)), str(table / "_delta_log")} <= set(after)


def test_a_segment_found_committed_is_made_durable_before_it_counts_as_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process committed it and may have died before its fsync; the caller will delete its journal now."""
    Lake(tmp_path).append([segment_batch("a", 1)])
    disk = Disk(monkeypatch)

    assert Lake(tmp_path).append([segment_batch("a", 1)]).segments == 0

    log = tmp_path / "usage_events" / "_delta_log"
    assert {str(path) for path in (*log.glob("*.json"), log)} <= set(disk.log)


def test_a_data_file_whose_fsync_fails_is_never_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(tmp_path)
    lake.append([segment_batch("a", 1)])
    disk = Disk(monkeypatch)
    disk.failing = f"usage_events/event_date=2026-10-01/{TEMPORARY_PREFIX}"

    with pytest.raises(LakeUnavailable, match="Input/output error"):
        lake.append([segment_batch("a", 2)])

    assert lake.cut() == {"a": 1}
    assert lake.append([segment_batch("a", 2)]).segments == 1
    assert len(identities(lake)) == len(set(identities(lake))) == 6


def test_a_commit_whose_fsync_fails_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(tmp_path)
    lake.append([segment_batch("a", 1)])
    disk = Disk(monkeypatch)
    commit = tmp_path / "usage_events" / "_delta_log" / f"{2:020d}.json"
    disk.failing = str(commit)

    lake.append([segment_batch("a", 2)])

    # Its bytes went to a new file, which was fsynced under its temporary name; asking the old one again proves nothing.
    assert any(str(commit.parent / TEMPORARY_PREFIX) in path for path in disk.log)
    assert Lake(tmp_path).cut() == {"a": 2}


def test_settling_keeps_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(b"content")
    inode = path.stat().st_ino
    disk = Disk(monkeypatch)
    disk.failing = "file.json"

    settle_file(path)

    assert path.read_bytes() == b"content"
    assert path.stat().st_ino != inode


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Disk(monkeypatch)
    disk.failing = TEMPORARY_PREFIX

    with pytest.raises(OSError, match="Input/output error"):
        write_durably(tmp_path / "file", b"content")

    assert list(tmp_path.iterdir()) == []


def test_a_torn_checkpoint_is_dropped_while_its_commits_are_there_and_named_when_not(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append([segment_batch("a", 1)])
    lake.vacuum()
    log = tmp_path / "usage_events" / "_delta_log"
    (checkpoint,) = log.glob("*.checkpoint.parquet")
    torn = checkpoint.read_bytes()[:100]
    hint = (log / "_last_checkpoint").read_bytes()
    checkpoint.write_bytes(torn)
    assert Lake(tmp_path).cut() == {"a": 1}
    assert not checkpoint.exists()

    # Without the first commit the checkpoint was the only record of it.
    checkpoint.write_bytes(torn)
    (log / "_last_checkpoint").write_bytes(hint)
    (log / f"{0:020d}.json").unlink()
    with pytest.raises(LakeDamaged, match=rf"{checkpoint.name} is torn"):
        Lake(tmp_path).cut()


def test_many_producers_in_one_append_are_told_apart(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    batches = [segment_batch(f"p{number:02}", 1, rows=1) for number in range(40)]
    lake.append(batches[:20])

    assert lake.append(batches).segments == 20
    assert lake.append(batches).segments == 0
    assert len(identities(lake)) == len(set(identities(lake))) == 40
