"""Upkeep of the lake: few large files instead of many small ones, and nothing on the disk that nobody refers to.

Enters: a table of the lake. Leaves: the same rows in fewer files; a count of deleted files.
Refuses: to change what a cut means, to compact a file whose hash differs, to touch files younger than the retention.

How a compaction commits, and what was measured with deltalake 1.6.6 (tests/metering/test_lake_upkeep.py proves it):
- AddAction and RemoveAction in one "append" commit remove exactly the files that were read; files of an append that
  raced are kept, and an append from an older handle is still accepted.
- Such commits do *not* exclude each other: two compactions of the same files were both accepted and every row counted
  twice. So each carries the application transaction COMPACTION_ID, and of two that race one gets CommitFailedError.
- Rejected: mode "overwrite" with a partition filter. It too removes only the files of its own snapshot, but it replaces
  whole partitions, refuses appends that raced with it, and marks rows as changed to whoever streams the table.
- Rejected: `table.optimize.compact()`. Its files carry no hash in their names and are never fsynced.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from metering.durable import TEMPORARY_PREFIX
from metering.errors import LakeUnavailable
from metering.lake import ATTEMPTS_MAX, COMPACTION_ID, pause_before_retry
from metering.lake_hashes import verify_files
from metering.lake_table import PARTITION, ROWS_PER_FILE_MAX, LakeTable, engine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deltalake import DeltaTable

    from metering.lake_table import DataFile

# A file below both is worth rewriting. One rewrite reads at most twice as much, so any two small files fit together
# and always become exactly one: compaction ends, and its memory is bounded.
SMALL_BYTES = 64 * 1024 * 1024
SMALL_ROWS = ROWS_PER_FILE_MAX // 2
# A file is only rewritten together with smaller ones that hold at least a fourth of its rows: one late event does not
# cost a rewrite of its day, a row is rewritten a few times at most, and a day keeps a handful of files.
GROWTH = 4


@dataclass(frozen=True, slots=True)
class Compacted:
    """How many small files were rewritten, and into how many."""

    files_before: int
    files_after: int


@dataclass(frozen=True, slots=True)
class Maintained:
    """What one run of the upkeep did, over all tables of the lake.

    `files` are the data files of the newest version, `commits` the commit files in the logs. `rewritten` small files
    went into fewer ones; `deleted` files were of no version within the retention, or left behind by a crash.
    """

    files_before: int
    files_after: int
    commits_before: int
    commits_after: int
    rewritten: int
    deleted: int


def count_files(tables: Sequence[LakeTable]) -> tuple[int, int]:
    """Return how many data files the newest versions name, and how many commit files the logs hold."""
    files = commits = 0
    for table in tables:
        handle = table.open()
        files += 0 if handle is None else len(table.files(handle))
        commits += len(list(table.log.glob("*.json")))
    return files, commits


def compact_table(table: LakeTable, on_step: Callable[[str], None], pause: Callable[[float], None]) -> Compacted:
    """Rewrite small files of each partition, one durable commit per rewrite. Idempotent; stopping half-way is harmless."""
    from deltalake.exceptions import CommitFailedError

    before = after = lost = 0
    while True:
        handle = table.open()
        group = [] if handle is None else _next_group(table.files(handle))
        if handle is None or not group:
            return Compacted(before, after)
        try:
            written = _rewrite(table, handle, group, on_step)
        except CommitFailedError:
            lost += 1
            if lost >= ATTEMPTS_MAX:
                raise LakeUnavailable(f"{table.folder}: compaction lost {lost} races; try again later") from None
            pause_before_retry(lost, pause)
            continue
        before += len(group)
        after += written


def vacuum_table(table: LakeTable, retention_hours: int) -> int:
    """Delete orphaned, replaced and temporary files older than the retention, and commits behind the newest checkpoint."""
    from deltalake import PostCommitHookProperties

    handle = table.open()
    if handle is None:
        return 0
    with engine(f"vacuum {table.folder}"):
        deleted = len(
            handle.vacuum(
                retention_hours,
                dry_run=False,
                enforce_retention_duration=False,
                # Also files that no commit ever named: those of lost races and crashes.
                full=True,
                post_commithook_properties=PostCommitHookProperties(
                    create_checkpoint=False, cleanup_expired_logs=False
                ),
            )
        )
        table.settle(handle)
        if not table.is_checkpointed(handle):
            table.checkpoint(handle)
        handle.cleanup_metadata()
        return deleted + _delete_temporary(table.folder, retention_hours)


def _next_group(files: Sequence[DataFile]) -> list[DataFile]:
    # Files come by path, and so by partition.
    small = [file for file in files if file.size < SMALL_BYTES and file.rows < SMALL_ROWS]
    for _, members in groupby(small, key=lambda file: file.event_date):
        group: list[DataFile] = []
        size = rows = worth = 0
        for file in sorted(members, key=lambda file: (file.rows, file.path)):
            if size + file.size > 2 * SMALL_BYTES or rows + file.rows > 2 * SMALL_ROWS:
                break
            group.append(file)
            if file.rows <= GROWTH * rows:
                worth = len(group)
            size, rows = size + file.size, rows + file.rows
        if worth:
            return group[:worth]
    return []


def _rewrite(table: LakeTable, handle: DeltaTable, group: Sequence[DataFile], on_step: Callable[[str], None]) -> int:
    from deltalake.transaction import RemoveAction

    # Damaged bytes must not be given a fresh, valid hash.
    verify_files(group)
    added = table.write(table.read(group))
    for action in added:
        # The same rows as before: whoever streams the table must not see them again.
        action.data_change = False
    now_ms = time.time_ns() // 1_000_000
    removed = [
        RemoveAction(
            path=Path(file.path).relative_to(table.folder).as_posix(),
            data_change=False,
            deletion_timestamp=now_ms,
            size=file.size,
            partition_values={} if file.event_date is None else {PARTITION: file.event_date.isoformat()},
        )
        for file in group
    ]
    on_step(f"{table.shape.name}: commit compaction")
    number = (handle.transaction_version(COMPACTION_ID) or 0) + 1
    table.commit(handle, [*added, *removed], {COMPACTION_ID: number})
    table.settle(handle)
    return len(added)


def _delete_temporary(folder: Path, retention_hours: int) -> int:
    oldest = time.time() - retention_hours * 3600
    deleted = 0
    # deltalake's own leftovers end in "#1".
    for pattern in (f"{TEMPORARY_PREFIX}*", "*#1"):
        for file in folder.rglob(pattern):
            if file.is_file() and file.stat().st_mtime < oldest:
                file.unlink(missing_ok=True)
                deleted += 1
    return deleted
