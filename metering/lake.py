"""The lake: usage events, segments and dead letters as three Delta tables, each segment in them exactly once.

Enters: SegmentBatches. Leaves: sorted, hashed Parquet files that any engine reads; cuts; file lists; verified bytes.
Refuses: a segment that is already in, a segment older than the newest of its producer, a data file whose hash differs.

Exactly once: a commit carries (producer_id, last segment) as an application transaction, and is made from the same
handle whose transaction versions decided what is new. Of several writers racing over the same segments one commits,
the others get a conflict, look again and find nothing left to do.
The three tables are committed one after the other, usage_events last; each skips what its own transaction says is in.
A crash between two of them is repaired by the next append of the same segments. A **cut** is what usage_events says.
Time: event_date is the UTC date of event_time. Nothing here reads a clock to decide anything.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from metering.errors import LakeUnavailable
from metering.events import dead_letter_schema, segment_schema, usage_event_schema
from metering.lake_hashes import size_and_time, verify_files
from metering.lake_table import DataFile, LakeTable, TableShape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import date

    import pyarrow as pa

    from metering.batch import SegmentBatch
    from metering.lake_upkeep import Compacted, Maintained

# Conflicts are only among writers of the *same* producers, so a handful of rounds is already pathological.
ATTEMPTS_MAX = 20
PAUSE_MAX_S = 0.5
VACUUM_RETENTION_HOURS = 168
# The application id under which compactions exclude each other; a blank keeps it apart from every producer id.
COMPACTION_ID = "tallybook compaction"

# Which data files were found whole, and when they last changed; see metering.lake_hashes.
VERIFIED_NOTE = Path("derived", "verified.json")


@dataclass(frozen=True, slots=True)
class Appended:
    """What one append added to usage_events: segments, usage events (`rows`) and dead letters.

    `skipped` segments were in already. `out_of_order` ones are (producer_id, segment) that are older than the newest of
    their producer and yet were never stored: keep them, they are a finding.
    """

    segments: int
    rows: int
    dead_letters: int
    skipped: int = 0
    out_of_order: tuple[tuple[str, int], ...] = ()


class Lake:
    """The three tables below `root`, created when first written to.

    Safe to use from several processes at once. Not across a fork: open a Lake after it. `on_step` is told the name of
    each step before it is taken (for tests that crash there); `pause` waits between attempts.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        on_step: Callable[[str], None] | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.root = Path(root).absolute()
        self._on_step = on_step or (lambda _step: None)
        self._pause = pause
        events_order = ("tenant_id", "meter", "event_time", "producer_id", "segment", "row")
        self._events = LakeTable(
            self.root, TableShape("usage_events", usage_event_schema(), events_order, is_partitioned=True)
        )
        self._segments = LakeTable(self.root, TableShape("segments", segment_schema(), ("producer_id", "segment")))
        self._dead_letters = LakeTable(
            self.root, TableShape("dead_letters", dead_letter_schema(), ("producer_id", "segment", "row"))
        )
        self._is_checked = False

    def append(self, batches: Sequence[SegmentBatch]) -> Appended:
        """Add segments, each exactly once, durable against a power cut when this returns. Idempotent.

        Raises LakeUnavailable (retry helps; nothing is half counted) and LakeDamaged (restore the named file first).
        """
        if not batches:
            return Appended(0, 0, 0)
        self._check_once()
        ordered = _in_order(batches)
        with_dead_letters = [batch for batch in ordered if batch.dead_letters.num_rows]
        # Most appends refuse nothing; the dead letters' own transaction may lag, since only what it holds is skipped.
        if with_dead_letters:
            self._append_to(self._dead_letters, with_dead_letters, _dead_letters_of)
        self._append_to(self._segments, ordered, _segments_of)
        # Last: only now do the segments count. A segment without events still moves its producer's cut.
        taken = self._append_to(self._events, ordered, _events_of)
        identities = {(batch.producer_id, batch.segment) for batch in taken}
        skipped = [batch for batch in ordered if (batch.producer_id, batch.segment) not in identities]
        return Appended(
            segments=len(taken),
            rows=sum(batch.events.num_rows for batch in taken),
            dead_letters=sum(batch.dead_letters.num_rows for batch in taken),
            skipped=len(skipped),
            out_of_order=self._never_stored(skipped),
        )

    def last_segment(self, producer_id: str) -> int | None:
        """Return the producer's last segment in usage_events, or None while there is none."""
        handle = self._events.open()
        return None if handle is None else handle.transaction_version(producer_id)

    def cut(self) -> dict[str, int]:
        """Return, per producer, the last segment in usage_events now: the set of rows that a snapshot pins."""
        handle = self._events.open()
        if handle is None:
            return {}
        versions = self._events.transactions(handle)
        return {name: versions[name] for name in sorted(versions) if name != COMPACTION_ID}

    def data_files(self, first_date: date | None = None, last_date: date | None = None) -> list[DataFile]:
        """Return the files of usage_events at its newest version, by path, with event_date from first to last included."""
        handle = self._events.open()
        if handle is None:
            return []
        return [
            file
            for file in self._events.files(handle)
            if file.event_date is not None
            and (first_date is None or file.event_date >= first_date)
            and (last_date is None or file.event_date <= last_date)
        ]

    def verify(self, files: Iterable[DataFile], *, trusting_earlier: bool = False) -> None:
        """Hash files before their first read in this process. Raise LakeDamaged for the first that differs from its name.

        `trusting_earlier`: not those that a process found whole before and whose size and mtime are what they were then;
        for who reads little and books nothing (see metering.lake_hashes).
        """
        verify_files(files, note=self.root / VERIFIED_NOTE, trusting_earlier=trusting_earlier)

    def segments(self) -> pa.Table:
        """Return SEGMENT rows by producer and segment. May run ahead of `cut()` by an append that was cut short."""
        return self._read_all(self._segments)

    def dead_letters(self) -> pa.Table:
        """Return DEAD_LETTER rows by producer, segment and row. May run ahead of `cut()` like `segments()`."""
        return self._read_all(self._dead_letters)

    def compact(self) -> Compacted:
        """Rewrite small files into few sorted ones. Rows, cuts and transactions stay as they are. Safe beside appends."""
        from metering.lake_upkeep import Compacted, compact_table

        done = [compact_table(table, self._on_step, self._pause) for table in self._tables()]
        return Compacted(sum(one.files_before for one in done), sum(one.files_after for one in done))

    def vacuum(self, retention_hours: int = VACUUM_RETENTION_HOURS) -> int:
        """Delete files that no version of the last hours refers to, and stale temporary ones; return how many.

        `retention_hours` must exceed the longest query and the longest append: younger files are never touched.
        """
        from metering.lake_upkeep import vacuum_table

        return sum(vacuum_table(table, retention_hours) for table in self._tables())

    def maintain(self, retention_hours: int = VACUUM_RETENTION_HOURS) -> Maintained:
        """Compact, then vacuum; return counts. Idempotent, and its cost follows what is new: again, it does nothing."""
        from metering.lake_upkeep import Maintained, count_files

        files_before, commits_before = count_files(self._tables())
        compacted = self.compact()
        deleted = self.vacuum(retention_hours)
        files_after, commits_after = count_files(self._tables())
        return Maintained(
            files_before=files_before,
            files_after=files_after,
            commits_before=commits_before,
            commits_after=commits_after,
            rewritten=compacted.files_before,
            deleted=deleted,
        )

    def _tables(self) -> tuple[LakeTable, LakeTable, LakeTable]:
        return self._dead_letters, self._segments, self._events

    def _append_to(
        self,
        table: LakeTable,
        batches: Sequence[SegmentBatch],
        rows_of: Callable[[Sequence[SegmentBatch]], pa.Table],
    ) -> list[SegmentBatch]:
        from deltalake.exceptions import CommitFailedError

        name = table.shape.name
        last_error: Exception | None = None
        for attempt in range(ATTEMPTS_MAX):
            self._on_step(f"{name}: open")
            handle = table.open_or_create()
            done = table.versions(handle, {batch.producer_id for batch in batches})
            new = [batch for batch in batches if _is_new(batch, done)]
            if not new:
                table.settle(handle)
                return []
            self._on_step(f"{name}: write")
            actions = table.write(rows_of(new))
            self._on_step(f"{name}: commit")
            try:
                # Batches are in order, so the last of each producer wins.
                table.commit(handle, actions, {batch.producer_id: batch.segment for batch in new})
            except (CommitFailedError, LakeUnavailable) as error:
                # Lost, or of unknown outcome: only a fresh handle knows which segments are in. The files of a lost
                # attempt are named by no commit; vacuum removes them.
                last_error = error
                pause_before_retry(attempt, self._pause)
                continue
            self._on_step(f"{name}: settle")
            table.settle(handle)
            return new
        raise LakeUnavailable(
            f"{table.folder}: {ATTEMPTS_MAX} commits in a row failed or lost their race. Nothing was lost; try again",
            attempts=ATTEMPTS_MAX,
        ) from last_error

    def _never_stored(self, skipped: Sequence[SegmentBatch]) -> tuple[tuple[str, int], ...]:
        if not skipped:
            return ()
        stored = self.segments().select(["producer_id", "segment"])
        known = set(zip(stored["producer_id"].to_pylist(), stored["segment"].to_pylist(), strict=True))
        identities = [(batch.producer_id, batch.segment) for batch in skipped]
        return tuple(identity for identity in identities if identity not in known)

    def _read_all(self, table: LakeTable) -> pa.Table:
        handle = table.open()
        if handle is None:
            return table.shape.schema.empty_table()
        files = table.files(handle)
        verify_files(files)
        return table.read(files)

    def _check_once(self) -> None:
        # After an unclean end a commit may have survived its data file; shipping on top of that would hide it.
        if self._is_checked:
            return
        for table in self._tables():
            handle = table.open()
            for file in table.files(handle) if handle is not None else []:
                size_and_time(file)
        self._is_checked = True


def pause_before_retry(attempt: int, pause: Callable[[float], None]) -> None:
    """Wait a random part of an exponentially growing, bounded time, so that racing writers come apart."""
    pause(random.uniform(0, min(PAUSE_MAX_S, 0.01 * 2**attempt)))  # noqa: S311 - jitter, not a secret


def _in_order(batches: Sequence[SegmentBatch]) -> list[SegmentBatch]:
    unique = {(batch.producer_id, batch.segment): batch for batch in reversed(batches)}
    return [unique[identity] for identity in sorted(unique)]


def _is_new(batch: SegmentBatch, done: Mapping[str, int | None]) -> bool:
    last = done[batch.producer_id]
    return last is None or batch.segment > last


def _events_of(batches: Sequence[SegmentBatch]) -> pa.Table:
    from metering.codes import concat

    return concat([batch.events for batch in batches])


def _dead_letters_of(batches: Sequence[SegmentBatch]) -> pa.Table:
    import pyarrow as pa

    return pa.concat_tables([batch.dead_letters for batch in batches])


def _segments_of(batches: Sequence[SegmentBatch]) -> pa.Table:
    import pyarrow as pa

    schema = segment_schema()
    fields = [name for name in schema.names if name != "totals"]
    columns = [pa.array([getattr(batch, name) for batch in batches], schema.field(name).type) for name in fields]
    structs = [batch.totals.to_struct_array() for batch in batches]
    offsets = [0]
    for one in structs:
        offsets.append(offsets[-1] + len(one))
    values = pa.concat_arrays([chunk for one in structs for chunk in _chunks(one)] or [_no_totals()])
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)
    return pa.table([*columns, lists.cast(schema.field("totals").type)], schema=schema)


def _chunks(array: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    return list(getattr(array, "chunks", [array]))


def _no_totals() -> pa.Array:
    import pyarrow as pa

    from metering.events import control_total_type

    return pa.array([], control_total_type())
