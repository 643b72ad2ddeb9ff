"""States of data files, added up by the column: what `rollup_cell.sql` says, for less where names repeat.

Enters: sets of data files, the boundaries of the cells of time, the events that do not count. Leaves, per set, the sums as rows
of ROLLUP in the order of tenant, meter, attributes and cell, and events that still have to be added to them, one by one.
Refuses: more names than dense arrays are good for; then the statement does it.

Problem: of 10 million events a month and a million groups, grouping three texts per event was most of the cost of usage.
Observations: a data file is in the order of its tenants, so a tenant is one text per run of rows; meters and attributes
are codes in the file already; a group is then one number, and adding to a place of an array takes 4 ns.
Choice: tenants are read as runs and numbered in their order, (meter, attributes) pairs are numbered as they come, and all
quantities are added in two limbs of 32 bits, which cannot overflow below two thousand million events per group.
Quantities that need more than 64 bits (from 9.2 thousand million units) are handed on one by one: the statement adds them.
Nothing here trusts the order of a file or the day of its folder; they only make it quick.
Two threads read files, each what it reads from the file to the sums, which are shared and locked: decoding is most of the work.
Quantities are read by the engine, in the order of the file: Arrow decodes 16 bytes per event, the engine narrows each different
quantity of a row group once. Names are read by Arrow, which hands out their codes.
Rejected: GROUP BY over codes (the codes come from the texts, which is what costs), states per day kept when a data file
is shipped (at 100 events a tenant a month they are hardly fewer than the events), and threads that only read ahead (handing
batches over costs what the second core wins).
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metering.codes import whole
from metering.engine import fetch, open_engine, read_sql
from metering.narrow import NANO_64, words

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    import duckdb

    Array = np.ndarray[Any, Any]

# So many rows at a time, that what is in between stays in the cache and in warm memory: fresh pages cost more than sums.
ROWS_AT_ONCE = 262_144
CODED_BYTES_MAX = 4
# Dense arrays hold so many groups, 40 bytes each; more names than this are not few.
GROUPS_MAX = 2**24
KINDS_MAX = 4096
KINDS_AT_FIRST = 8
# A meter and attributes of one batch that are looked at as a pair.
PAIRS_MAX = 65_536
# One decodes while the other adds.
READERS = 2
# So many files are read ahead of whoever takes what is too wide to be added.
FILES_AHEAD = 2 * READERS
_LIMB_BITS = 32
_LIMB = 2**_LIMB_BITS - 1
_LEAST, _MOST = np.iinfo(np.int64).min, np.iinfo(np.int64).max
_DECIMAL = pa.decimal128(38, 9)
_INSTANT = pa.timestamp("us", tz="UTC")
_ORIGIN = ("producer_id", "segment", "row")


class TooSparse(Exception):
    """There are too many different names for arrays that have a place for every group."""


def rollup_schema() -> pa.Schema:
    """Return ROLLUP, see rollup_new.sql; texts may come as codes."""
    return pa.schema(
        [
            ("tenant_id", pa.string()),
            ("meter", pa.string()),
            ("attributes", pa.string()),
            ("cell_start", _INSTANT),
            ("cell_end", _INSTANT),
            ("event_count", pa.int64()),
            ("quantity_sum", _DECIMAL),
            ("quantity_max", _DECIMAL),
            ("quantity_min", _DECIMAL),
        ]
    )


@dataclass(frozen=True, slots=True)
class FileSet:
    """Data files whose events are added up together, over the cells between boundaries.

    `left_out` holds, per file, the origins (producer_id, segment, row) that do not count.
    """

    files: Sequence[Path]
    boundaries: Sequence[datetime]
    left_out: Mapping[Path, pa.Table]


def file_states(sets: Sequence[FileSet]) -> Generator[pa.Table | Sums]:
    """Yield the states of sets of data files, set by set: ROLLUP rows of single events, then the sums of all others.

    The events that stand alone are those whose quantity is too wide to be added here. Where the names are too many for dense
    arrays the sums say `is_too_sparse`, and nothing that was yielded of the set counts.
    Up to FILES_AHEAD files are read while whoever asked is busy with what came before, whichever set they are of.
    """
    files = [str(file) for one in sets for file in one.files]
    under_way: deque[_Added] = deque()
    with ThreadPoolExecutor(READERS) as pool, closing(open_engine(files, threads=1, in_order=True)) as engine:
        try:
            for added in _begun(pool, engine, sets):
                under_way.append(added)
                if len(under_way) > FILES_AHEAD:
                    yield from under_way.popleft().wait()
            while under_way:
                yield from under_way.popleft().wait()
        finally:
            pool.shutdown(cancel_futures=True)


def _begun(pool: ThreadPoolExecutor, engine: duckdb.DuckDBPyConnection, sets: Sequence[FileSet]) -> Iterator[_Added]:
    """Yield every file as soon as a thread was asked to add it. Tenants are numbered set by set, before their files are added."""
    runs = [pool.submit(_all_runs_of, file) for file in sets[0].files] if sets else []
    for at, one in enumerate(sets):
        lengths, codes, tenants = _numbered([run.result() for run in runs])
        sums = Sums(tenants, pa.array(one.boundaries, _INSTANT))
        for file, of_file, tenant_of in zip(one.files, lengths, codes, strict=True):
            future = pool.submit(_add_file, engine, sums, file, of_file, tenant_of, one.left_out.get(file))
            is_last = file == one.files[-1]
            if is_last and at + 1 < len(sets):
                runs = [pool.submit(_all_runs_of, file) for file in sets[at + 1].files]
            yield _Added(sums, future, is_last)


def _add_file(
    engine: duckdb.DuckDBPyConnection,
    sums: Sums,
    file: Path,
    lengths: Array,
    tenant_of: Array,
    left_out: pa.Table | None,
) -> list[pa.Table]:
    """Add the events of a file; return those whose quantity is too wide, as ROLLUP rows."""
    place, wide = 0, []
    quantities = _Quantities.of(engine, file)
    # The groups of a kind lie together, those of a tenant in them.
    group_of = np.repeat(tenant_of * sums.cells, lengths)
    is_left_out = None if left_out is None else _is_left_out(file, left_out, len(group_of))
    kinds = _Kinds(sums)
    for batch, cell in _batches(file, sums.boundaries):
        part = slice(place, place + batch.num_rows)
        place += batch.num_rows
        counts = None if is_left_out is None else ~is_left_out[part]
        group = kinds.first_groups(batch) + group_of[part] + cell
        wide.append(sums.add(*quantities.take(batch.num_rows), group, cell, counts))
    quantities.end()
    return [table for table in wide if table is not None]


def _numbered(runs: Sequence[tuple[list[pa.Array], Array]]) -> tuple[list[Array], list[Array], pa.Array]:
    """Return, per file, how many rows in a row have one tenant, and the tenants' numbers; and the tenants, in order."""
    values = [value for of_file, _ in runs for value in of_file]
    lengths = [of_file for _, of_file in runs]
    coded = pc.dictionary_encode(pa.chunked_array(values, pa.string()))
    names = coded.chunk(0).dictionary if coded.num_chunks else pa.array([], pa.string())
    order = pc.sort_indices(names).to_numpy()
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names))
    numbers = np.concatenate([np.empty(0, np.int64), *(rank[chunk.indices.to_numpy()] for chunk in coded.chunks)])
    ends = np.cumsum([len(of_file) for of_file in lengths])[:-1]
    return lengths, np.split(numbers, ends), names.take(pa.array(order))


def _all_runs_of(file: Path) -> tuple[list[pa.Array], Array]:
    """Return the tenants of a file by runs of rows, in parts, and how long each run is."""
    found = list(_runs_of(file))
    return [value for value, _ in found], np.concatenate([np.empty(0, np.int32), *(length for _, length in found)])


def _runs_of(file: Path) -> Iterator[tuple[pa.Array, Array]]:
    """Yield the tenants of a file by runs of rows, and how long each run is. A run may be told in two parts."""
    metadata = pq.read_metadata(file)
    place = metadata.schema.names.index("tenant_id")
    stored = sum(metadata.row_group(at).column(place).total_uncompressed_size for at in range(metadata.num_row_groups))
    # Codes are a byte or two per row where tenants repeat; else most of a row group is its dictionary, and codes cost more.
    if stored > CODED_BYTES_MAX * metadata.num_rows:
        with pq.ParquetFile(file, metadata=metadata, pre_buffer=False) as content:
            for batch in content.iter_batches(ROWS_AT_ONCE, columns=["tenant_id"], use_threads=False):
                encoded = pc.run_end_encode(batch.column(0))
                yield encoded.values, np.diff(encoded.run_ends.to_numpy(), prepend=0)
        return
    with pq.ParquetFile(file, metadata=metadata, read_dictionary=["tenant_id"], pre_buffer=False) as content:
        for batch in content.iter_batches(ROWS_AT_ONCE, columns=["tenant_id"], use_threads=False):
            codes = batch.column(0).indices.to_numpy()
            starts = np.concatenate(([0], np.flatnonzero(codes[1:] != codes[:-1]) + 1))
            yield batch.column(0).dictionary.take(pa.array(codes[starts])), np.diff(starts, append=len(codes))


def _batches(file: Path, boundaries: pa.Array) -> Iterator[tuple[pa.RecordBatch, Array | int]]:
    """Yield the rows of a file, and the cell of each; one cell for all where the file's own statistics say so."""
    edges = boundaries.cast(pa.int64()).to_numpy()
    with pq.ParquetFile(file, read_dictionary=["meter", "attributes"], pre_buffer=False) as content:
        only = _only_cell(content.metadata, boundaries)
        columns = ["meter", "attributes", *([] if only is not None else ["event_time"])]
        for batch in content.iter_batches(ROWS_AT_ONCE, columns=columns, use_threads=False):
            if only is not None:
                yield batch, only
            else:
                instants = batch.column("event_time").cast(_INSTANT).view(pa.int64()).to_numpy()
                # A cell is half-open, [start, end): an event at its end belongs to the next one.
                yield batch, np.searchsorted(edges, instants, side="right") - 1


def _only_cell(metadata: pq.FileMetaData, boundaries: pa.Array) -> int | None:
    """Return the one cell that all events of a file lie in, or None where its statistics do not say that."""
    place = metadata.schema.names.index("event_time")
    found: set[int] = set()
    edges = boundaries.to_pylist()
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(place).statistics
        if statistics is None or not statistics.has_min_max:
            return None
        found |= {sum(edge <= end for edge in edges) - 1 for end in (statistics.min, statistics.max)}
    cell = found.pop() if len(found) == 1 else -1
    return cell if 0 <= cell < len(edges) - 1 else None


def _is_left_out(file: Path, left_out: pa.Table, rows: int) -> Array:
    with pq.ParquetFile(file) as content:
        origins = content.read(columns=list(_ORIGIN), use_threads=False)
    placed = origins.append_column("place", pa.array(np.arange(rows)))
    met = placed.join(left_out.select(_ORIGIN), list(_ORIGIN), join_type="left semi", use_threads=False)
    found = np.zeros(rows, np.bool_)
    found[met["place"].to_numpy()] = True
    return found


@dataclass(frozen=True, slots=True)
class _Added:
    """A file that is being added to the sums of its set."""

    sums: Sums
    future: Future[list[pa.Table]]
    is_last: bool

    def wait(self) -> Iterator[pa.Table | Sums]:
        """Wait for the file; yield what of it is too wide, and after the last file of a set the set's sums."""
        # The sums know it too, and whoever gets them looks there.
        with suppress(TooSparse):
            yield from self.future.result()
        if self.is_last:
            yield self.sums


@dataclass(slots=True)
class Sums:
    """Dense states that threads share: axes are kind (a pair of meter and attributes, in room that doubles), tenant, cell."""

    tenants: pa.Array
    boundaries: pa.Array
    kinds: dict[tuple[str, str], int] = field(default_factory=dict)
    # Per state an array of (room for kinds, tenants, cells): events, low and high limb of the sum, maximum, minimum.
    states: list[Array] = field(default_factory=list)
    is_too_sparse: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def cells(self) -> int:
        return len(self.boundaries) - 1

    @property
    def groups_of_a_kind(self) -> int:
        return len(self.tenants) * self.cells

    def first_group(self, kind: tuple[str, str]) -> int:
        """Return the first group of a kind, that of the first tenant and cell; a new kind gets its own. It never changes."""
        with self._lock:
            number = self.kinds.setdefault(kind, len(self.kinds))
            room = len(self.states[0]) if self.states else 0
            if len(self.kinds) > room:
                self._grow(2 * room or KINDS_AT_FIRST)
        return number * self.groups_of_a_kind

    def _grow(self, room: int) -> None:
        """Make room for so many kinds."""
        if self.is_too_sparse or room * self.groups_of_a_kind > GROUPS_MAX or room > KINDS_MAX:
            self.is_too_sparse = True
            raise TooSparse
        old, shape = self.states, (room, len(self.tenants), self.cells)
        self.states = [np.full(shape, empty, np.int64) for empty in (0, 0, 0, _LEAST, _MOST)]
        for state, before in zip(self.states, old, strict=False):
            state[: len(before)] = before

    def add(
        self, low: Array, wide: _Wide | None, group: Array, cell: Array | int, counts: Array | None
    ) -> pa.Table | None:
        """Add some events; return those whose quantity is too wide, as ROLLUP rows, or None. `counts`: not left out."""
        handed_on = None
        if counts is not None or wide is not None or isinstance(cell, np.ndarray):
            is_taken = np.ones(len(low), np.bool_) if counts is None else counts
            if isinstance(cell, np.ndarray):
                is_taken &= (cell >= 0) & (cell < self.cells)
            if wide is not None:
                is_wide = is_taken[wide.places]
                handed_on = self._one_by_one(wide.quantities.filter(pa.array(is_wide)), group[wide.places[is_wide]])
                is_taken[wide.places] = False
            group, low = group[is_taken], low[is_taken]
        low_limb, high_limb = low & _LIMB, low >> _LIMB_BITS
        with self._lock:
            events, sum_low, sum_high, most, least = (state.reshape(-1) for state in self.states)
            np.add.at(events, group, 1)
            np.add.at(sum_low, group, low_limb)
            np.add.at(sum_high, group, high_limb)
            np.maximum.at(most, group, low)
            np.minimum.at(least, group, low)
        return handed_on

    def _one_by_one(self, quantities: pa.Array, group: Array) -> pa.Table:
        count = pa.array(np.ones(len(quantities), np.int64))
        return self._rows(group, [count, quantities, quantities, quantities])

    def _rows(self, group: Array, states: Sequence[pa.Array]) -> pa.Table:
        """Return ROLLUP rows of groups."""
        kind, rest = np.divmod(group, self.groups_of_a_kind)
        tenant, cell = np.divmod(rest, self.cells)
        kinds = list(self.kinds)
        names = [pc.dictionary_encode(pa.array([one[place] for one in kinds], pa.string())) for place in (0, 1)]
        # Tenants not as codes: a file written from them would hold the names of all tenants in each of its row groups.
        columns = [self.tenants.take(pa.array(tenant)), *(name.take(pa.array(kind)) for name in names)]
        columns += [self.boundaries.take(pa.array(cell)), self.boundaries.take(pa.array(cell + 1)), *states]
        return pa.table(columns, names=rollup_schema().names)

    def cells_met(self) -> frozenset[tuple[int, int]]:
        """Return the cells that hold an event, as (start, end) in microseconds since 1970."""
        edges = self.boundaries.cast(pa.int64()).to_pylist()
        has_event = [bool(self.states) and bool(self.states[0][:, :, at].any()) for at in range(self.cells)]
        return frozenset(cell for cell, is_met in zip(pairwise(edges), has_event, strict=True) if is_met)

    def tables(self, rows: int) -> Iterator[pa.Table]:
        """Yield the ROLLUP rows of all groups that have an event, in order, so many at a time; one table at least."""
        groups = self._groups_in_order()
        for at in range(0, max(len(groups), 1), rows):
            group = groups[at : at + rows]
            events, sum_low, sum_high, most, least = (state.reshape(-1)[group] for state in self.states or [groups] * 5)
            decimals = [_sum(sum_low, sum_high), _decimals(most, most >> 63), _decimals(least, least >> 63)]
            yield self._rows(group, [pa.array(events), *decimals])

    def _groups_in_order(self) -> Array:
        """Return the groups that have an event: by tenant, then kind, then cell."""
        if not self.states:
            return np.empty(0, np.int64)
        in_order = np.array([self.kinds[kind] for kind in sorted(self.kinds)], np.int64)
        tenant, kind, cell = np.nonzero(self.states[0][in_order].transpose(1, 0, 2))
        return in_order[kind] * self.groups_of_a_kind + tenant * self.cells + cell


@dataclass(frozen=True, slots=True)
class _Wide:
    """Events whose quantity needs more than 64 bits: where they are among some rows, and the quantities."""

    places: Array
    quantities: pa.Array


@dataclass(slots=True)
class _Quantities:
    """The quantities of one file, in its order, as 64-bit counts of 10^-9.

    Read by the engine, which narrows each different quantity of a row group once; Arrow widens every one to 16 bytes.
    """

    _engine: duckdb.DuckDBPyConnection
    _file: Path
    _batches: Iterator[pa.RecordBatch]
    # Of the rows that were read and not taken yet; what does not fit 60 bits is null.
    _left: pa.Array
    _place: int = 0
    # All rows of the file that the engine could not narrow: `place` and `quantity`.
    _unread: pa.Table | None = None

    @classmethod
    def of(cls, engine: duckdb.DuckDBPyConnection, file: Path) -> _Quantities:
        cursor = engine.cursor()
        read = cursor.sql(read_sql("metering", "file_quantity"), params={"file": str(file)})
        return cls(engine, file, iter(read.to_arrow_reader(ROWS_AT_ONCE)), pa.array([], NANO_64))

    def take(self, rows: int) -> tuple[Array, _Wide | None]:
        """Return the quantities of the next rows, and those that do not fit 64 bits, which are 0 among the others."""
        parts = []
        missing = rows
        while missing:
            if not len(self._left):
                self._left = self._next()
            parts.append(self._left[:missing])
            self._left = self._left[missing:]
            missing -= len(parts[-1])
        found = parts[0] if len(parts) == 1 else pa.concat_arrays(parts) if parts else self._left
        self._place += rows
        return self._widened(found) if found.null_count else (words(found), None)

    def end(self) -> None:
        """Say that all rows were taken. Raises RuntimeError where the engine has more: they would be nobody's."""
        if len(self._left) or next(self._batches, None) is not None:
            raise RuntimeError(f"{self._file} has more quantities than names; run `tallybook doctor`")

    def _next(self) -> pa.Array:
        batch = next(self._batches, None)
        if batch is None:
            raise RuntimeError(f"{self._file} has fewer quantities than names; run `tallybook doctor`")
        return batch.column(0)

    def _widened(self, found: pa.Array) -> tuple[Array, _Wide | None]:
        if self._unread is None:
            statement = read_sql("metering", "file_quantity_wide")
            # A cursor of its own: the other one is half read.
            self._unread = fetch(self._engine.cursor(), statement, {"file": str(self._file)})
        places = self._unread["place"].to_numpy()
        first, last = np.searchsorted(places, [self._place - len(found), self._place])
        places = places[first:last] - (self._place - len(found))
        quantities = whole(self._unread["quantity"][first:last])
        pairs = words(quantities)
        # What the engine could not narrow is set below, so it does not matter what is there.
        low = np.frombuffer(found.buffers()[1], np.int64)[found.offset :][: len(found)].copy()
        # The upper word of what fits 64 bits only repeats the sign.
        is_wide = pairs[:, 1] != pairs[:, 0] >> 63
        low[places] = np.where(is_wide, 0, pairs[:, 0])
        return low, _Wide(places[is_wide], quantities.filter(pa.array(is_wide)))


@dataclass(slots=True)
class _Kinds:
    """The kinds of the rows of one file. A pair of codes is looked up once, for as long as the file means the same by them."""

    sums: Sums
    _names: list[pa.Array] = field(default_factory=list)
    _kinds: list[tuple[str, str]] = field(default_factory=list)
    # By pair of codes; -1 is not looked up yet.
    _first_group: Array = field(default_factory=lambda: np.empty(0, np.int64))

    def first_groups(self, batch: pa.RecordBatch) -> Array:
        """Return the first group of each row's kind. No attributes are `{}`."""
        meters, attributes = (batch.column(name) for name in ("meter", "attributes"))
        names = [meters.dictionary, attributes.dictionary]
        if not self._names or not all(one.equals(other) for one, other in zip(names, self._names, strict=True)):
            self._begin(names)
        texts = len(attributes.dictionary) + 1
        pair = meters.indices.to_numpy() * np.int32(texts) + attributes.indices.fill_null(texts - 1).to_numpy()
        found: Array = self._first_group.take(pair)
        if len(found) and int(found.min()) < 0:
            for one in np.unique(pair[found < 0]).tolist():
                self._first_group[one] = self.sums.first_group(self._kinds[one])
            found = self._first_group.take(pair)
        return found

    def _begin(self, names: list[pa.Array]) -> None:
        meters, texts = names[0].to_pylist(), [*names[1].to_pylist(), None]
        if len(meters) * len(texts) > PAIRS_MAX:
            self.sums.is_too_sparse = True
            raise TooSparse
        self._names = names
        self._kinds = [(meter, "{}" if text is None else text) for meter in meters for text in texts]
        self._first_group = np.full(len(self._kinds), -1, np.int64)


def _sum(low: Array, high: Array) -> pa.Array:
    """Return low + high x 2^32, exact: `low` is a sum of limbs and not negative, `high` has the sign."""
    shifted = (high << _LIMB_BITS).view(np.uint64)
    lower = shifted + low.view(np.uint64)
    return _decimals(lower.view(np.int64), (high >> _LIMB_BITS) + (lower < shifted))


def _decimals(low: Array, high: Array) -> pa.Array:
    content = np.stack([low, high], axis=1)
    return pa.Array.from_buffers(_DECIMAL, len(content), [None, pa.py_buffer(content)])
