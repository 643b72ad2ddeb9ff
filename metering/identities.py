"""Which keyed events may be duplicates: found by reading only the data files that are new since the last time.

Enters: the data files of the lake, verified. Leaves: the *candidates*, copies of all keyed rows whose identity (tenant,
meter, key) may occur more than once; `duplicate.sql` then decides on these few rows, by the identities themselves.
Refuses: to decide by a hash, and to be needed. Everything here is derived: delete the folder `lake/derived` at any
time, in part or whole, and the next call builds it again from the data files with the same answer.

How: every keyed row is a 64-bit hash of its identity and a place (data file, row). Sorted runs of them are merged as
they grow, so there are few. The hashes of a new file are looked up in the runs by binary search; where two meet, the
rows are read from their files and kept as candidates. Two rows of one identity have one hash, so none is missed; rows
that only share a hash are candidates too, and come out as what they are. A file that compaction replaced is dead: its
entries are passed over, its candidates dropped, and the rows are found again in the file that took its place.

The state is a manifest and the files that it names by their sha256; whoever writes last wins, and both were right.
Rejected: one sidecar per data file (a lookup would open all of them), and Bloom filters (they only say maybe).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metering.durable import TEMPORARY_PREFIX
from metering.engine import fetch, open_engine, read_sql
from metering.events import usage_event_schema
from metering.file_facts import has_only_nulls

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Array = np.ndarray[Any, Any]

# Below this a scan of everything is quicker than looking anything up.
SCAN_BYTES_MAX = 32 * 1024 * 1024
# Bounds memory: so many rows are hashed at once, and larger runs are not merged any further (16 bytes per entry).
ROWS_PER_RUN = 8_000_000
MERGED_ENTRIES_MAX = 64_000_000
# A run is merged with its neighbour as soon as it is half as large: few runs, each entry moved a few times.
GROWTH = 2
GARBAGE_AGE_S = 3600
COLUMNS = (
    "tenant_id",
    "meter",
    "quantity",
    "event_time",
    "recorded_at",
    "producer_id",
    "segment",
    "row",
    "idempotency_key",
    "attributes",
)
# DuckDB may hash differently in another version; then everything is built anew.
FORMAT = f"1, duckdb {duckdb.__version__}"
MANIFEST = "identities.json"

_FILE_NAME = re.compile(r"part-[0-9a-f]{32}-([0-9a-f]{64})\.parquet$")
_ROW_BITS = np.uint64(32)
_ROW_MASK = np.uint64(2**32 - 1)

# Which files of the state this process has hashed already, by path: (size, mtime in ns).
_verified: dict[str, tuple[int, int]] = {}


@dataclass(slots=True)
class _State:
    """What is known of the files so far. A file's number is its index; a dead file's name is empty.

    A run is an array of two rows: hashes in order, and places (file number above 32 bits, row in the file below).
    """

    files: list[str] = field(default_factory=list)
    runs: list[Array] = field(default_factory=list)
    candidates: pa.Table = field(default_factory=lambda: candidate_schema().empty_table())

    def places(self) -> Array:
        """Return the places of the candidates."""
        return _numbers(self.candidates["place"]).astype(np.uint64)

    def is_alive(self) -> Array:
        """Return, per file number, whether the file is still of the lake."""
        return np.array([bool(name) for name in self.files], np.bool_)


def candidate_schema() -> pa.Schema:
    """Return the columns of USAGE_EVENT that tell duplicates, and `place`, where the row is. One row per candidate."""
    schema = usage_event_schema()
    return pa.schema([*(schema.field(name) for name in COLUMNS), pa.field("place", pa.int64(), nullable=False)])


def find_candidates(files: Sequence[str], *, scan_bytes_max: int | None = None) -> pa.Table | None:
    """Return all keyed rows of these files whose identity may occur twice, or None where a plain scan serves as well.

    None: the files are few, or not of one lake. The caller has verified the files. Idempotent; two processes at once
    are right. A folder that cannot be written only costs the memory of it.
    """
    names = {Path(file).name: file for file in files}
    roots = {Path(file).parents[2] for file in files if len(Path(file).parents) > 2}
    if len(roots) != 1 or len(names) != len(files) or not all(_FILE_NAME.fullmatch(name) for name in names):
        return None
    if sum(Path(file).stat().st_size for file in files) < (
        SCAN_BYTES_MAX if scan_bytes_max is None else scan_bytes_max
    ):
        return None
    folder = roots.pop() / "derived" / "identities"
    state = _load(folder)
    if _advance(state, names):
        # A full or read-only disk: the answer is right all the same.
        with suppress(OSError):
            _save(folder, state)
    return state.candidates.select(COLUMNS)


def _advance(state: _State, paths: Mapping[str, str]) -> bool:
    """Bring the state to exactly these files; return whether it changed."""
    known = set(state.files)
    new = sorted(name for name in paths if name not in known)
    dead = [number for number, name in enumerate(state.files) if name and name not in paths]
    for number in dead:
        state.files[number] = ""
    if dead:
        files_of = (state.places() >> _ROW_BITS).astype(np.int64)
        state.candidates = state.candidates.filter(pa.array(state.is_alive()[files_of]))
    for portion in _portions([paths[name] for name in new]):
        _add(state, portion, paths)
    return bool(new or dead)


def _portions(paths: Sequence[str]) -> Iterator[list[str]]:
    portion: list[str] = []
    rows = 0
    for path in paths:
        portion.append(path)
        rows += pq.read_metadata(path).num_rows
        if rows >= ROWS_PER_RUN:
            yield portion
            portion, rows = [], 0
    if portion:
        yield portion


def _add(state: _State, portion: Sequence[str], paths: Mapping[str, str]) -> None:
    """Add some files: their hashes as a run, and every row, new or old, that meets another one as a candidate."""
    first = len(state.files)
    state.files += [Path(path).name for path in portion]
    run = _hash(portion, first)
    hashes = run[0]
    if not len(hashes):
        return
    distinct = hashes[np.concatenate(([True], hashes[1:] != hashes[:-1]))]
    is_alive = state.is_alive()
    met = [_look_up(old, distinct, is_alive) for old in state.runs]
    repeated = hashes[1:][hashes[1:] == hashes[:-1]]
    shared = np.unique(np.concatenate([repeated, *(old[0] for old in met)]))
    wanted = np.concatenate([run[1][np.isin(hashes, shared)], *(old[1] for old in met)])
    wanted = np.setdiff1d(wanted, state.places())
    if len(wanted):
        state.candidates = pa.concat_tables([state.candidates, *_read(wanted, state.files, paths)])
    state.runs.append(run)
    _merge(state, is_alive)


def _hash(portion: Sequence[str], first: int) -> Array:
    keyed = [path for path in portion if not has_only_nulls(pq.read_metadata(path), "idempotency_key")]
    if not keyed:
        return np.empty((2, 0), np.uint64)
    engine = open_engine(keyed)
    try:
        engine.read_parquet(keyed, hive_partitioning=False, filename=True, file_row_number=True).create_view(
            "data_file"
        )
        found = fetch(engine, read_sql("metering", "identity"))
    finally:
        engine.close()
    names = pa.array([Path(path).name for path in portion])
    numbers = pc.index_in(found["file_name"], names)
    places = ((_numbers(numbers).astype(np.uint64) + np.uint64(first)) << _ROW_BITS) | _numbers(found["place"]).astype(
        np.uint64
    )
    hashes = _numbers(found["identity"]).astype(np.uint64)
    order = np.argsort(hashes, kind="stable")
    return np.stack([hashes[order], places[order]])


def _look_up(run: Array, hashes: Array, is_alive: Array) -> Array:
    """Return the entries of a run, hash and place, that have one of these distinct hashes and whose file is alive."""
    start = np.searchsorted(run[0], hashes, "left")
    is_there = start < run.shape[1]
    is_there[is_there] = run[0][start[is_there]] == hashes[is_there]
    start = start[is_there]
    counts = np.searchsorted(run[0], hashes[is_there], "right") - start
    # Entry by entry: the starts, each repeated and counted up.
    ahead = np.cumsum(counts) - counts
    entries = np.repeat(start - ahead, counts) + np.arange(int(counts.sum()))
    found = run[:, entries]
    return found[:, is_alive[(found[1] >> _ROW_BITS).astype(np.int64)]]


def _merge(state: _State, is_alive: Array) -> None:
    while len(state.runs) > 1:
        older, newer = state.runs[-2:]
        entries = older.shape[1] + newer.shape[1]
        if newer.shape[1] * GROWTH < older.shape[1] or entries > MERGED_ENTRIES_MAX:
            return
        both = np.concatenate([older, newer], axis=1)
        both = both[:, is_alive[(both[1] >> _ROW_BITS).astype(np.int64)]]
        state.runs[-2:] = [both[:, np.argsort(both[0], kind="stable")]]


def _read(places: Array, names: Sequence[str], paths: Mapping[str, str]) -> Iterator[pa.Table]:
    """Yield the rows at these places, from their data files, one table per row group; only such groups are read."""
    numbers = (places >> _ROW_BITS).astype(np.int64)
    for number in np.unique(numbers).tolist():
        rows = (places[numbers == number] & _ROW_MASK).astype(np.int64)
        with pq.ParquetFile(paths[names[number]]) as file:
            end = 0
            for group in range(file.num_row_groups):
                start, end = end, end + file.metadata.row_group(group).num_rows
                inside = rows[(rows >= start) & (rows < end)]
                if len(inside):
                    read = file.read_row_group(group, columns=list(COLUMNS)).take(pa.array(inside - start))
                    place = pa.array((number << 32) | inside, pa.int64())
                    yield pa.table([*read.select(COLUMNS).columns, place], schema=candidate_schema())


def _numbers(column: pa.ChunkedArray) -> Array:
    numbers: Array = column.to_numpy()
    return numbers


def _load(folder: Path) -> _State:
    """Return the state as it was saved, or an empty one when anything of it is missing or not what its name says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if manifest["format"] != FORMAT:
            return _State()
        for name in (*manifest["runs"], manifest["candidates"]):
            _verify(folder / name)
        runs = [np.load(folder / name, mmap_mode="r") for name in manifest["runs"]]
        with pa.memory_map(str(folder / manifest["candidates"])) as source:
            candidates = pa.ipc.open_file(source).read_all()
        return _State(list(manifest["files"]), runs, candidates.cast(candidate_schema()))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return _State()


def _verify(path: Path) -> None:
    found = path.stat()
    state = (found.st_size, found.st_mtime_ns)
    if _verified.get(str(path)) == state:
        return
    with path.open("rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() != path.stem:
            raise ValueError(f"{path} is not what its name says")
    _verified[str(path)] = state


def _save(folder: Path, state: _State) -> None:
    """Write what is new and then the manifest. Nothing is fsynced: what a power cut tears is found by its hash."""
    folder.mkdir(parents=True, exist_ok=True)
    runs = [_keep_run(folder, run) for run in state.runs]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, candidate_schema()) as writer:
        writer.write_table(state.candidates)
    candidates = _keep(folder, memoryview(sink.getvalue()), ".arrow")
    manifest = {"format": FORMAT, "files": state.files, "runs": runs, "candidates": candidates}
    _replace(folder / MANIFEST, json.dumps(manifest).encode())
    _delete_garbage(folder, {MANIFEST, candidates, *runs})


def _keep_run(folder: Path, run: Array) -> str:
    # A run that was mapped is in its file already.
    if isinstance(run, np.memmap) and run.filename is not None:
        return Path(run.filename).name
    content = io.BytesIO()
    np.save(content, run)
    return _keep(folder, content.getbuffer(), ".npy")


def _keep(folder: Path, content: memoryview, suffix: str) -> str:
    name = hashlib.sha256(content).hexdigest() + suffix
    try:
        # What is there under this name may be torn.
        _verify(folder / name)
    except (OSError, ValueError):
        _replace(folder / name, content)
    return name


def _replace(path: Path, content: bytes | memoryview) -> None:
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{uuid4().hex}")
    temporary.write_bytes(content)
    temporary.replace(path)


def _delete_garbage(folder: Path, kept: set[str]) -> None:
    # Another process may be about to open what its manifest named a moment ago.
    oldest = time.time() - GARBAGE_AGE_S
    for entry in os.scandir(folder):
        if entry.name not in kept and entry.stat().st_mtime < oldest:
            Path(entry.path).unlink(missing_ok=True)
