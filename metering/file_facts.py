"""What is in each data file, as far as it decides who has to read it: its segments, and whether it corrects anything.

Enters: the data files of the lake, verified. Leaves: FILE_FACT, one row per (data file, producer): the first and the last
segment of that producer in the file, and how many of these rows are corrections.
Refuses: to be needed. The facts are kept in `lake/derived/facts`, so that only new data files are read; delete them at
any time. A data file never changes, so neither do its facts.
"""

from __future__ import annotations

import io
import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from metering.derived import Derived
from metering.engine import fetch, open_engine, read_sql

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa
    import pyarrow.parquet as pq

FORMAT = 1
MANIFEST = "facts.json"
# Below this many bytes, reading the files is as quick as looking anything up.
SCAN_BYTES_MAX = 32 * 1024 * 1024

_FILE_NAME = re.compile(r"event_date=\d{4}-\d{2}-\d{2}/part-[0-9a-f]{32}-[0-9a-f]{64}\.parquet$")


@cache
def file_fact_schema() -> pa.Schema:
    """Return FILE_FACT: one row per (data file, producer). `first_segment` to `last_segment`, both included."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("file_name", pa.string(), nullable=False),
            pa.field("producer_id", pa.string(), nullable=False),
            pa.field("first_segment", pa.int64(), nullable=False),
            pa.field("last_segment", pa.int64(), nullable=False),
            pa.field("corrections", pa.int64(), nullable=False),
        ]
    )


def file_facts(files: Sequence[str], *, scan_bytes_max: int | None = None) -> pa.Table:
    """Return FILE_FACT of these data files. Idempotent; two processes at once are right.

    Kept where the files are those of one lake and large enough; a folder that cannot be written only costs the memory of it.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    paths = {Path(file).name: file for file in files}
    derived = _derived(paths, SCAN_BYTES_MAX if scan_bytes_max is None else scan_bytes_max)
    known = file_fact_schema().empty_table() if derived is None else _load(derived)
    new = sorted(paths.keys() - set(pc.unique(known["file_name"]).to_pylist()))
    found = pa.concat_tables([known, _read([paths[name] for name in new])]) if new else known
    found = found.filter(pc.is_in(found["file_name"], pa.array(paths, pa.string())))
    if derived is not None and (new or len(found) != len(known)):
        # A full or read-only disk: the answer is right all the same.
        with suppress(OSError):
            _save(derived, found)
    return found


def _derived(paths: Mapping[str, str], scan_bytes_max: int) -> Derived | None:
    roots = {Path(file).parents[2] for file in paths.values() if _FILE_NAME.search(file)}
    if len(roots) != 1 or not all(_FILE_NAME.search(file) for file in paths.values()):
        return None
    if sum(Path(file).stat().st_size for file in paths.values()) < scan_bytes_max:
        return None
    return Derived(roots.pop() / "derived" / "facts", MANIFEST, FORMAT)


def has_only_nulls(metadata: pq.FileMetaData, name: str) -> bool:
    """Return whether the statistics of a file say that one of its columns holds nothing at all."""
    columns = _statistics(metadata, name)
    return all(one is not None and one.has_null_count and one.null_count == rows for one, rows in columns)


def _statistics(metadata: pq.FileMetaData, name: str) -> list[tuple[pq.Statistics | None, int]]:
    """Return the statistics of a column, row group by row group, with the rows of that group."""
    place = metadata.schema.names.index(name)
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    return [(group.column(place).statistics, group.num_rows) for group in groups]


def _read(files: Sequence[str]) -> pa.Table:
    """Return the facts of data files: from their own statistics where these say enough, else from their rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    told = {file: _told(Path(file).name, pq.read_metadata(file)) for file in files}
    facts = pa.Table.from_pylist([one for one in told.values() if one is not None], schema=file_fact_schema())
    untold = [file for file, one in told.items() if one is None]
    if not untold:
        return facts
    engine = open_engine(untold)
    try:
        engine.read_parquet(untold, hive_partitioning=False, filename=True).create_view("fact_file")
        return pa.concat_tables([facts, fetch(engine, read_sql("metering", "file_fact")).cast(file_fact_schema())])
    finally:
        engine.close()


def _told(name: str, metadata: pq.FileMetaData) -> dict[str, str | int] | None:
    """Return the fact of a file of one producer without corrections, or None where its statistics do not say that."""
    ends: dict[str, list[str | int]] = {}
    for column in ("producer_id", "segment"):
        found = [one for one, _ in _statistics(metadata, column)]
        if not found or any(one is None or not one.has_min_max for one in found):
            return None
        ends[column] = [min(one.min for one in found if one), max(one.max for one in found if one)]
    if ends["producer_id"][0] != ends["producer_id"][1] or not has_only_nulls(metadata, "correction"):
        return None
    return {
        "file_name": name,
        "producer_id": ends["producer_id"][0],
        "first_segment": ends["segment"][0],
        "last_segment": ends["segment"][1],
        "corrections": 0,
    }


def _load(derived: Derived) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    saved = derived.load()
    with suppress(OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        if saved is not None and derived.is_whole(saved["facts"]):
            return pq.ParquetFile(derived.folder / saved["facts"]).read(use_threads=False).cast(file_fact_schema())
    return file_fact_schema().empty_table()


def _save(derived: Derived, facts: pa.Table) -> None:
    import pyarrow.parquet as pq

    derived.folder.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    pq.write_table(facts, content, compression="zstd")
    name = derived.keep(content.getbuffer(), ".parquet")
    derived.save({"facts": name}, {name})
