"""Rows on their way into a data file: encoded once, ordered by their codes, written as Parquet.

Enters: an Arrow table with a declared schema. Leaves: its rows in order, and the bytes of one Parquet file that every
reader sees with exactly that schema. Refuses: nothing; what cannot be encoded cheaply is written as it is.

Most texts of usage events are few and repeated a million times. They become dictionary codes before anything else
touches them, so that sorting moves small numbers. Rows are then put in order, widened and written a row group at a time,
so that what is made on the way is small and in warm memory. Measured for a million events of a hundred tenants, per event:
sort_indices, take and write_table of the texts took 640 ns, this takes 150, and the file is half as large. Half of that is
the quantities where they are nearly all different, 16 bytes each to zstd; snappy would take 20 ns less and make the file
twice as large. DuckDB reads it
as fast as before or faster (BYTE_STREAM_SPLIT for quantities would have been smaller still, but DuckDB refuses it for
decimals).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metering.codes import is_uniform, whole
from metering.narrow import plain_quantities

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Array = np.ndarray[Any, Any]

ROWS_PER_GROUP = 131_072
# A column of which so many rows hold more different texts than this is not worth a dictionary.
SAMPLE_ROWS = 4096
SAMPLE_DISTINCT_MAX = 1024
# Quantities are, up to here: some 8,000 of them in a row group. Against plain ones (16 bytes each to zstd) the file had half
# as many bytes, DuckDB read it in half the time, and writing it took no longer; at 40,000 it took more than twice as long.
SAMPLE_QUANTITIES_MAX = 3072
# A row group stores the names that its codes may mean: so many are cheap, whether it uses them or not.
NAMES_UNUSED_MAX = 1024
# Of so few bits that Arrow counts values instead of comparing them: 3 ns a row where NumPy's radix sort took 12.
_DIGIT_BITS = 12
_DIGITS = 2**_DIGIT_BITS
_FOLDED_MAX = 2**16
# Encoding so many values at a time saves a call per 1024 of them.
_WRITE_BATCH = 16_384


def encode(rows: pa.Table, order: Sequence[str]) -> pa.Table:
    """Return the same rows with repeated texts as dictionary codes: those of `order` always, others where it pays."""
    columns = []
    for field, column in zip(rows.schema, rows.columns, strict=True):
        if pa.types.is_dictionary(field.type):
            columns.append(column.unify_dictionaries())
        elif pa.types.is_string(field.type) and (field.name in order or _is_repetitive(column)):
            columns.append(pc.dictionary_encode(column))
        else:
            columns.append(column)
    fields = [field.with_type(column.type) for field, column in zip(rows.schema, columns, strict=True)]
    return pa.table(columns, schema=pa.schema(fields))


def places_in_order(rows: pa.Table, order: Sequence[str]) -> Array | None:
    """Return where each of encoded rows is found by these columns, ascending, texts by their bytes; None: as they are."""
    if rows.num_rows < 2:
        return None
    codes = list(_folded(_codes(rows[name]) for name in order if not is_uniform(rows[name])))
    # Rows arrive as they were recorded, so the last columns (producer, segment, row) are usually in order already:
    # a stable sort by the columns before them is enough.
    unsorted = len(codes)
    in_place = np.ones(rows.num_rows - 1, np.bool_)
    for position in range(len(codes) - 1, -1, -1):
        before, after = codes[position][:-1], codes[position][1:]
        in_place = (before < after) | ((before == after) & in_place)
        if in_place.all():
            unsorted = position
    # The least significant digit first, each time keeping the order of equals.
    places: Array | None = None
    for digit in (digit for code in reversed(codes[:unsorted]) for digit in _digits(code)):
        step = pc.sort_indices(pa.array(digit if places is None else digit[places])).to_numpy().view(np.int64)
        places = step if places is None else places[step]
    return places


def in_groups(rows: pa.Table, places: Array | None) -> Iterator[pa.Table]:
    """Yield the rows at these places, a row group at a time, quantities as decimal128(38, 9).

    A group at a time, so that what is made on the way to the file stays in warm memory, and is bounded.
    """
    count = rows.num_rows if places is None else len(places)
    source = {name: _source(rows[name], places) for name in rows.column_names}
    # One group at least: a file without rows has its schema, too.
    for at in range(0, max(count, 1), ROWS_PER_GROUP):
        columns = [source[name](at, min(ROWS_PER_GROUP, count - at)) for name in rows.column_names]
        columns = [
            plain_quantities(column) if name == "quantity" else _own_names(column)
            for name, column in zip(rows.column_names, columns, strict=True)
        ]
        fields = [field.with_type(column.type) for field, column in zip(rows.schema, columns, strict=True)]
        yield pa.table(columns, schema=pa.schema(fields))


def write_parquet(sink: Any, rows: pa.Table, places: Array | None, statistics: Sequence[str]) -> None:
    """Write encoded rows in this order as one Parquet file. Readers see plain texts and plain quantities.

    Min and max of `statistics` only. `sink` is a file to write to.
    """
    with contextlib.ExitStack() as open_files:
        writer: pq.ParquetWriter | None = None
        for group in in_groups(rows, places):
            if writer is None:
                writer = open_files.enter_context(_writer(sink, group, statistics))
            writer.write_table(group, row_group_size=ROWS_PER_GROUP)


def _writer(sink: Any, first: pa.Table, statistics: Sequence[str]) -> pq.ParquetWriter:
    types = {field.name: field.type for field in first.schema}
    return pq.ParquetWriter(
        sink,
        first.schema,
        compression="zstd",
        use_dictionary=[
            name
            for name, kind in types.items()
            if pa.types.is_dictionary(kind) or (pa.types.is_decimal(kind) and _has_few(first[name]))
        ],
        # Numbers and instants in order differ by little.
        column_encoding={
            name: "DELTA_BINARY_PACKED"
            for name, kind in types.items()
            if pa.types.is_integer(kind) or pa.types.is_timestamp(kind)
        },
        write_statistics=[name for name in statistics if name in types],
        # Otherwise pyarrow would give the codes back instead of the texts.
        store_schema=False,
        write_batch_size=_WRITE_BATCH,
    )


def _is_repetitive(column: pa.ChunkedArray) -> bool:
    return bool(pc.count_distinct(column.slice(0, SAMPLE_ROWS)).as_py() <= SAMPLE_DISTINCT_MAX)


def _has_few(quantities: pa.ChunkedArray) -> bool:
    """Return whether the quantities of a row group are worth a dictionary."""
    # From all over the group: its rows are in order, and the first ones are of one tenant.
    step = max(1, len(quantities) // SAMPLE_ROWS)
    sample = quantities.take(pa.array(np.arange(0, len(quantities), step)[:SAMPLE_ROWS]))
    return bool(pc.count_distinct(sample).as_py() <= SAMPLE_QUANTITIES_MAX)


def _source(column: pa.ChunkedArray, places: Array | None) -> Callable[[int, int], pa.ChunkedArray]:
    """Return what gives so many values from one on, of the column in this order."""
    if places is None or is_uniform(column):
        return column.slice  # type: ignore[no-any-return]
    if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
        # What may not fit one array (long texts) is moved at once and cut afterwards.
        return pc.take(column, pa.array(places), boundscheck=False).slice  # type: ignore[no-any-return]
    array = whole(column)

    def taken(at: int, count: int) -> pa.ChunkedArray:
        return pa.chunked_array([pc.take(array, pa.array(places[at : at + count]), boundscheck=False)])

    return taken


def _own_names(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of one row group whose dictionary holds few names that the group does not use.

    Arrow writes the whole dictionary into every row group: all tenants of a day, again and again, to be read as often.
    """
    if not pa.types.is_dictionary(column.type):
        return column
    array = whole(column)
    names = array.dictionary
    if len(names) <= NAMES_UNUSED_MAX:
        return column
    used = np.flatnonzero(np.bincount(array.indices.drop_null().to_numpy(), minlength=len(names)))
    if len(names) - len(used) <= NAMES_UNUSED_MAX:
        return column
    number = np.zeros(len(names), array.indices.type.to_pandas_dtype())
    number[used] = np.arange(len(used))
    codes = pa.array(number).take(array.indices)
    return pa.chunked_array([pa.DictionaryArray.from_arrays(codes, names.take(pa.array(used)))])


def _codes(column: pa.ChunkedArray) -> Array:
    """Return one number per row that orders like the column; of 16 bits where a dictionary needs no more."""
    if pa.types.is_dictionary(column.type):
        encoded = column.unify_dictionaries()
        names = encoded.chunk(0).dictionary
        rank = np.empty(len(names), np.uint16 if len(names) <= _FOLDED_MAX else np.int64)
        rank[pc.sort_indices(names).to_numpy()] = np.arange(len(names))
        ranks: Array = np.concatenate([rank[chunk.indices.to_numpy()] for chunk in encoded.chunks])
        return ranks
    numbers = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
    plain: Array = numbers.to_numpy()
    return plain


def _folded(codes: Iterator[Array]) -> Iterator[Array]:
    """Yield the same keys, two that follow each other as one where 16 bits hold both: a pass less to sort by."""
    held: Array | None = None
    for code in codes:
        if held is None:
            held = code
        elif held.dtype == code.dtype == np.uint16 and (int(held.max()) + 1) * (int(code.max()) + 1) <= _FOLDED_MAX:
            held = held * np.uint16(int(code.max()) + 1) + code
        else:
            yield held
            held = code
    if held is not None:
        yield held


def _digits(code: Array) -> Iterator[Array]:
    """Yield the digits of twelve bits in which the numbers differ at all, the least significant first."""
    if code.dtype == np.uint16 and int(code.max()) < _DIGITS:
        yield code
        return
    rest = code - code.min()
    top = int(rest.max())
    while top:
        yield (rest & (_DIGITS - 1)).astype(np.uint16)
        rest, top = rest >> _DIGIT_BITS, top >> _DIGIT_BITS
