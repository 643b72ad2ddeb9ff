"""A file of usage events as segments: what was exported elsewhere, imported once.

Enters: a CSV, JSON lines or Parquet file with the columns tenant_id, meter, event_time, quantity (absent: each row counts
one), optionally idempotency_key; every other column is an attribute. Leaves: SegmentBatches of kind "file".
Refuses: a file that is not whole. All of it is read once before the first segment leaves, so nothing is applied by half.

Identity: the producer is the file's own hash, its segments are numbered from 1 in the order of the rows. The same bytes
again, under whatever name, are the same segments, of which the lake keeps each once. Chunks must be cut in the same places,
so `chunk_rows` is not for users to choose.
Bad rows are data: they become dead letters with a reason and their original bytes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from metering.batch import SegmentBatch
from metering.errors import BadEventFile
from metering.totals import control_totals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from metering.event_file_formats import EventFile
    from metering.meters import MeterRule

CHUNK_ROWS = 500_000


def read_event_file(
    path: str | Path,
    rules: Mapping[str, MeterRule] | None,
    recorded_at_us: int,
    *,
    chunk_rows: int = CHUNK_ROWS,
    progress: Callable[[int], None] | None = None,
) -> Iterator[SegmentBatch]:
    """Check the whole file, then return its segments one by one; each goes to `Lake.append`.

    `rules` are the applied catalog's (None: none was applied, every well-formed meter is accepted). `recorded_at_us` is
    one instant for the whole file, microseconds since 1970, UTC. `progress` is told the rows read so far.

    Raises BadEventFile, before anything is returned, for a file that is missing, cut short, ragged, not UTF-8, of no known
    format, or without its columns; while iterating only if the file is changed meanwhile. No retry helps without a change.

    >>> for batch in read_event_file("usage.csv", None, 0):     # doctest: +SKIP
    ...     lake.append([batch])
    """
    from metering.event_file_formats import open_event_file

    file = Path(path)
    try:
        _check_is_file(file)
        before = _fingerprint(file)
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        source = open_event_file(file)
        source.check()
    except OSError as error:
        raise _bad(file, f"it cannot be read ({error.strerror or error})", "check the path and the rights") from error
    return _segments(file, source, before, f"file-{digest[:32]}", rules, recorded_at_us, chunk_rows, progress)


def _segments(
    file: Path,
    source: EventFile,
    before: tuple[int, int],
    producer_id: str,
    rules: Mapping[str, MeterRule] | None,
    recorded_at_us: int,
    chunk_rows: int,
    progress: Callable[[int], None] | None,
) -> Iterator[SegmentBatch]:
    from metering.codes import concat
    from metering.event_rows import RowsAt, split_rows
    from metering.refusals import apply_rules, refuse_wide_sums

    rows_before = 0
    previous_sha256: str | None = None
    for segment, raw in enumerate(source.chunks(chunk_rows), start=1):
        # The second reading must be of the bytes that were checked and hashed.
        if _fingerprint(file) != before:
            raise _bad(file, "it was changed while it was read", "leave it alone and import it again")
        events, dead_letters = split_rows(raw, rules, RowsAt(producer_id, segment, recorded_at_us))
        if any(rule.expression is not None for rule in (rules or {}).values()):
            events, without_answer = apply_rules(events, rules)
            dead_letters = concat([dead_letters, without_answer]).sort_by("row")
        events, dead_letters = refuse_wide_sums(events, dead_letters)
        yield SegmentBatch(
            producer_id=producer_id,
            segment=segment,
            kind="file",
            rows=len(raw),
            rows_before=rows_before,
            sealed_at=recorded_at_us,
            sha256=raw.sha256,
            previous_sha256=previous_sha256,
            events=events,
            dead_letters=dead_letters,
            totals=control_totals(events, dead_letters),
            trailer_sha256=raw.sha256,
        )
        rows_before += len(raw)
        previous_sha256 = raw.sha256
        if progress is not None:
            progress(rows_before)


def _check_is_file(file: Path) -> None:
    if not file.exists():
        raise _bad(file, "there is no such file", "check the path")
    if not file.is_file():
        raise _bad(file, "it is a folder or a device", "name one file of usage events")
    if not file.stat().st_size:
        raise _bad(file, "it is empty", "export it again")


def _fingerprint(file: Path) -> tuple[int, int]:
    state = file.stat()
    return state.st_size, state.st_mtime_ns


def _bad(file: Path, what: str, hint: str) -> BadEventFile:
    return BadEventFile(f"{file}: {what}. Nothing was imported; {hint}", path=str(file), line=None)
