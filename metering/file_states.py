"""States of data files, added up by the column: what `rollup_cell.sql` says, for less where names repeat.

Enters: data files, the boundaries of the cells of time, the events that do not count. Leaves: rows of ROLLUP; the last table
in the order of tenant, meter, attributes and cell, the others only states that still have to be added up.
Refuses: more names than dense arrays are good for (TooSparse); then the statement does it.

Problem: of 10 million events a month and a million groups, grouping three texts per event was most of the cost of usage.
Observations: a data file is in the order of its tenants, so a tenant is one text per run of rows; meters and attributes
are codes in the file already; a group is then one number, and adding to a place of an array takes 4 ns.
Choice: tenants are read as runs and numbered in their order, (meter, attributes) pairs are numbered as they come, and all
quantities are added in two limbs of 32 bits, which cannot overflow below two thousand million events per group.
Quantities that need more than 64 bits (from 9.2 thousand million units) are handed on one by one: the statement adds them.
Nothing here trusts the order of a file or the day of its folder; they only make it quick.
Rejected: GROUP BY over codes (the codes come from the texts, which is what costs), states per day kept when a data file
is shipped (at 100 events a tenant a month they are hardly fewer than the events), and threads that read ahead (sums hold the
interpreter's lock, so two cores were no quicker than one).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metering.codes import whole
from metering.narrow import words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    Array = np.ndarray[Any, Any]

# So many rows at a time, that what is in between stays in the cache and in warm memory: fresh pages cost more than sums.
ROWS_AT_ONCE = 16_384
CODED_BYTES_MAX = 4
# Dense arrays hold so many groups, 40 bytes each; more names than this are not few.
GROUPS_MAX = 2**24
KINDS_MAX = 4096
# A meter and attributes of one batch that are looked at as a pair.
PAIRS_MAX = 65_536
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


def file_states(
    files: Sequence[Path], boundaries: Sequence[datetime], left_out: Mapping[Path, pa.Table]
) -> Iterator[pa.Table]:
    """Yield ROLLUP rows of the events of data files between the first and the last boundary. Raises TooSparse.

    `left_out` holds, per file, the origins (producer_id, segment, row) that do not count. All tables but the last hold one
    event per row, of quantities that are too wide to be added here.
    """
    lengths, codes, tenants = _runs(files)
    instants = pa.array(boundaries, _INSTANT)
    sums = _Sums.of(tenants, instants)
    for file, of_file, tenant_of in zip(files, lengths, codes, strict=True):
        place = 0
        rows = np.repeat(tenant_of, of_file)
        is_left_out = _is_left_out(file, left_out[file], len(rows)) if file in left_out else None
        for batch, cell in _batches(file, instants):
            part = slice(place, place + batch.num_rows)
            place += batch.num_rows
            counts = None if is_left_out is None else ~is_left_out[part]
            wide = sums.add(batch, rows[part], cell, counts)
            if wide is not None:
                yield wide
    yield sums.table()


def _runs(files: Sequence[Path]) -> tuple[list[Array], list[Array], pa.Array]:
    """Return, per file, how many rows in a row have one tenant, and the tenants' numbers; and the tenants, in order."""
    values, lengths, runs = [], [], []
    for file in files:
        of_file, found = [], 0
        for value, length in _runs_of(file):
            values.append(value)
            of_file.append(length)
            found += len(length)
        lengths.append(np.concatenate([np.empty(0, np.int32), *of_file]))
        runs.append(found)
    coded = pc.dictionary_encode(pa.chunked_array(values, pa.string()))
    names = coded.chunk(0).dictionary if coded.num_chunks else pa.array([], pa.string())
    order = pc.sort_indices(names).to_numpy()
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names))
    numbers = np.concatenate([np.empty(0, np.int64), *(rank[chunk.indices.to_numpy()] for chunk in coded.chunks)])
    return lengths, np.split(numbers, np.cumsum(runs)[:-1]), names.take(pa.array(order))


def _runs_of(file: Path) -> Iterator[tuple[pa.Array, Array]]:
    """Yield the tenants of a file by runs of rows, and how long each run is. A run may be told in two parts."""
    metadata = pq.read_metadata(file)
    place = metadata.schema.names.index("tenant_id")
    stored = sum(metadata.row_group(at).column(place).total_uncompressed_size for at in range(metadata.num_row_groups))
    # Codes are a byte or two per row where tenants repeat; else most of a row group is its dictionary, and codes cost more.
    if stored > CODED_BYTES_MAX * metadata.num_rows:
        with pq.ParquetFile(file, metadata=metadata) as content:
            for batch in content.iter_batches(ROWS_AT_ONCE, columns=["tenant_id"], use_threads=False):
                encoded = pc.run_end_encode(batch.column(0))
                yield encoded.values, np.diff(encoded.run_ends.to_numpy(), prepend=0)
        return
    with pq.ParquetFile(file, metadata=metadata, read_dictionary=["tenant_id"]) as content:
        for batch in content.iter_batches(ROWS_AT_ONCE, columns=["tenant_id"], use_threads=False):
            codes = batch.column(0).indices.to_numpy()
            starts = np.concatenate(([0], np.flatnonzero(codes[1:] != codes[:-1]) + 1))
            yield batch.column(0).dictionary.take(pa.array(codes[starts])), np.diff(starts, append=len(codes))


def _batches(file: Path, boundaries: pa.Array) -> Iterator[tuple[pa.RecordBatch, Array | int]]:
    """Yield the rows of a file, and the cell of each; one cell for all where the file's own statistics say so."""
    edges = boundaries.cast(pa.int64()).to_numpy()
    with pq.ParquetFile(file, read_dictionary=["meter", "attributes"]) as content:
        only = _only_cell(content.metadata, boundaries)
        columns = ["meter", "attributes", "quantity", *([] if only is not None else ["event_time"])]
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


@dataclass(slots=True)
class _Sums:
    """Dense states: axes are tenant, kind (a pair of meter and attributes, in room that doubles) and cell of time."""

    tenants: pa.Array
    boundaries: pa.Array
    kinds: dict[tuple[str, str], int]
    # Per state an array of (tenants, room for kinds, cells): events, low and high limb of the sum, maximum, minimum.
    states: list[Array]

    @classmethod
    def of(cls, tenants: pa.Array, boundaries: pa.Array) -> _Sums:
        found = cls(tenants, boundaries, {}, [])
        found.grow(8)
        return found

    def grow(self, room: int) -> None:
        """Make room for so many kinds."""
        cells = len(self.boundaries) - 1
        if len(self.tenants) * room * cells > GROUPS_MAX or room > KINDS_MAX:
            raise TooSparse
        old = self.states
        self.states = [np.full((len(self.tenants), room, cells), empty, np.int64) for empty in (0, 0, 0, _LEAST, _MOST)]
        for state, before in zip(self.states, old, strict=False):
            state[:, : before.shape[1]] = before

    def add(self, batch: pa.RecordBatch, tenant_of: Array, cell: Array | int, counts: Array | None) -> pa.Table | None:
        """Add some events; return those whose quantity is too wide, as ROLLUP rows, or None. `counts`: not left out."""
        kind_of = self._kinds_of(batch)
        pairs = words(batch.column("quantity"))
        low = np.ascontiguousarray(pairs[:, 0])
        _, room, cells = self.states[0].shape
        group = (tenant_of * room + kind_of) * cells + cell
        is_taken = np.ones(len(low), np.bool_) if counts is None else counts
        if isinstance(cell, np.ndarray):
            is_taken &= (cell >= 0) & (cell < cells)
        wide = None
        # The upper word of what fits 64 bits only repeats the sign.
        is_wide = is_taken & (pairs[:, 1] != low >> 63)
        if is_wide.any():
            wide = self._one_by_one(batch.column("quantity"), group, is_wide)
            is_taken = is_taken & ~is_wide
        if not is_taken.all():
            group, low = group[is_taken], low[is_taken]
        events, sum_low, sum_high, most, least = (state.reshape(-1) for state in self.states)
        np.add.at(events, group, 1)
        np.add.at(sum_low, group, low & _LIMB)
        np.add.at(sum_high, group, low >> _LIMB_BITS)
        np.maximum.at(most, group, low)
        np.minimum.at(least, group, low)
        return wide

    def _kinds_of(self, batch: pa.RecordBatch) -> Array:
        """Return the number of each row's pair of meter and attributes; new pairs get one. No attributes are `{}`."""
        meters, attributes = (batch.column(name) for name in ("meter", "attributes"))
        texts = [*(text if text is not None else "{}" for text in attributes.dictionary.to_pylist()), "{}"]
        names = meters.dictionary.to_pylist()
        if len(names) * len(texts) > PAIRS_MAX:
            raise TooSparse
        codes = attributes.indices.fill_null(len(texts) - 1).to_numpy().astype(np.int64)
        pair = meters.indices.to_numpy() * np.int64(len(texts)) + codes
        number_of = np.zeros(len(names) * len(texts), np.int64)
        for one in np.flatnonzero(np.bincount(pair, minlength=len(number_of))).tolist():
            kind = names[one // len(texts)], texts[one % len(texts)]
            number_of[one] = self.kinds.setdefault(kind, len(self.kinds))
        while len(self.kinds) > self.states[0].shape[1]:
            self.grow(2 * self.states[0].shape[1])
        numbers: Array = number_of[pair]
        return numbers

    def _one_by_one(self, quantities: pa.Array, group: Array, is_wide: Array) -> pa.Table | None:
        if not is_wide.any():
            return None
        taken = whole(quantities.filter(pa.array(is_wide)))
        count = pa.array(np.ones(len(taken), np.int64))
        return self._rows(group[is_wide], list(self.kinds), [count, taken, taken, taken])

    def _rows(self, group: Array, kinds: Sequence[tuple[str, str]], states: Sequence[pa.Array]) -> pa.Table:
        """Return ROLLUP rows of groups that are numbered over the tenants, the room for kinds, and the cells."""
        _, room, cells = self.states[0].shape
        kind, cell = pa.array(group // cells % room), pa.array(group % cells)
        # Not as codes: a file written from them would hold the names of all tenants in each of its row groups.
        tenant = self.tenants.take(pa.array(group // cells // room))
        names = [pc.dictionary_encode(pa.array([one[place] for one in kinds], pa.string())) for place in (0, 1)]
        columns = [tenant, *(name.take(kind) for name in names), self.boundaries.take(cell)]
        columns += [self.boundaries.take(pc.add(cell, 1)), *states]
        return pa.table(columns, names=rollup_schema().names)

    def table(self) -> pa.Table:
        """Return the ROLLUP rows of all groups that have an event, in order."""
        kinds = sorted(self.kinds)
        _, room, cells = self.states[0].shape
        order = np.array([self.kinds[kind] for kind in kinds] + list(range(len(kinds), room)))
        group = np.flatnonzero(self.states[0][:, order])
        # Where the group is stored: kinds were numbered as they came.
        stored = (group // cells // room * room + order[group // cells % room]) * cells + group % cells
        events, sum_low, sum_high, most, least = (state.reshape(-1)[stored] for state in self.states)
        decimals = [_sum(sum_low, sum_high), _decimals(most, most >> 63), _decimals(least, least >> 63)]
        return self._rows(group, kinds, [pa.array(events), *decimals])


def _sum(low: Array, high: Array) -> pa.Array:
    """Return low + high x 2^32, exact: `low` is a sum of limbs and not negative, `high` has the sign."""
    shifted = (high << _LIMB_BITS).view(np.uint64)
    lower = shifted + low.view(np.uint64)
    return _decimals(lower.view(np.int64), (high >> _LIMB_BITS) + (lower < shifted))


def _decimals(low: Array, high: Array) -> pa.Array:
    content = np.stack([low, high], axis=1)
    return pa.Array.from_buffers(_DECIMAL, len(content), [None, pa.py_buffer(content)])
