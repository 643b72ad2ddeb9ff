"""Rows on their way into a data file: encoded once, ordered by their codes, written as Parquet.

Enters: an Arrow table with a declared schema. Leaves: its rows in order, and the bytes of one Parquet file that every
reader sees with exactly that schema. Refuses: nothing; what cannot be encoded cheaply is written as it is.

Most texts of usage events are few and repeated a million times. They become dictionary codes before anything else
touches them, so that sorting moves small numbers. Measured for a million events of a hundred tenants, per event:
sort_indices, take and write_table of the texts took 640 ns; encode, order, take and write of the codes takes 240 ns,
and the file is half as large. DuckDB reads it as fast as before or faster (BYTE_STREAM_SPLIT for quantities would have
been smaller still, but DuckDB refuses it for decimals).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Array = np.ndarray[Any, Any]

ROWS_PER_GROUP = 131_072
# A column whose first rows hold more different texts than this is not worth a dictionary.
SAMPLE_ROWS = 4096
SAMPLE_DISTINCT_MAX = 1024
_DIGIT_BITS = 16


def encode(rows: pa.Table, order: Sequence[str]) -> pa.Table:
    """Return the same rows with repeated texts as dictionary codes: those of `order` always, others where it pays."""
    columns = []
    for field, column in zip(rows.schema, rows.columns, strict=True):
        if pa.types.is_string(field.type) and (field.name in order or _is_repetitive(column)):
            columns.append(pc.dictionary_encode(column))
        else:
            columns.append(column)
    fields = [field.with_type(column.type) for field, column in zip(rows.schema, columns, strict=True)]
    return pa.table(columns, schema=pa.schema(fields))


def in_order(rows: pa.Table, order: Sequence[str]) -> pa.Table:
    """Return encoded rows by these columns, ascending, texts by their bytes; what is in order already is not moved."""
    if rows.num_rows < 2:
        return rows
    codes = [_codes(rows[name]) for name in order]
    # Rows arrive as they were recorded, so the last columns (producer, segment, row) are usually in order already:
    # a stable sort by the columns before them is enough.
    unsorted = len(codes)
    in_place = np.ones(rows.num_rows - 1, np.bool_)
    for position in range(len(codes) - 1, -1, -1):
        before, after = codes[position][:-1], codes[position][1:]
        in_place = (before < after) | ((before == after) & in_place)
        if in_place.all():
            unsorted = position
    # lexsort wants the least significant key first; sixteen bits at a time it is a radix sort.
    digits = [digit for code in reversed(codes[:unsorted]) for digit in _digits(code)]
    if not digits:
        return rows
    places = pa.array(np.lexsort(digits))
    columns = [column if _is_uniform(column) else _taken(column, places) for column in rows.columns]
    return pa.table(columns, schema=rows.schema)


def parquet_bytes(rows: pa.Table, statistics: Sequence[str]) -> pa.Buffer:
    """Return the bytes of one Parquet file of encoded rows. Readers see plain texts; min and max of `statistics` only."""
    sink = pa.BufferOutputStream()
    types = {field.name: field.type for field in rows.schema}
    pq.write_table(
        rows,
        sink,
        compression="zstd",
        row_group_size=ROWS_PER_GROUP,
        use_dictionary=[
            name for name, kind in types.items() if pa.types.is_dictionary(kind) or pa.types.is_decimal(kind)
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
    )
    return sink.getvalue()


def _is_repetitive(column: pa.ChunkedArray) -> bool:
    return bool(pc.count_distinct(column.slice(0, SAMPLE_ROWS)).as_py() <= SAMPLE_DISTINCT_MAX)


def _is_uniform(column: pa.ChunkedArray) -> bool:
    """Return whether every row is known to be the same, so that no order changes anything."""
    if column.null_count == len(column):
        return True
    if not pa.types.is_dictionary(column.type) or column.null_count:
        return False
    first = column.chunk(0).dictionary
    return len(first) == 1 and all(chunk.dictionary.equals(first) for chunk in column.chunks)


def _taken(column: pa.ChunkedArray, places: pa.Array) -> pa.ChunkedArray:
    # Long texts may not fit one array; they stay in their chunks.
    whole = column if pa.types.is_string(column.type) else column.combine_chunks()
    return pc.take(whole, places, boundscheck=False)


def _codes(column: pa.ChunkedArray) -> Array:
    """Return one number per row that orders like the column."""
    if pa.types.is_dictionary(column.type):
        encoded = column.unify_dictionaries().combine_chunks()
        rank = np.empty(len(encoded.dictionary), np.int64)
        rank[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(encoded.dictionary))
        ranks: Array = rank[encoded.indices.to_numpy()]
        return ranks
    numbers = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
    plain: Array = numbers.to_numpy()
    return plain


def _digits(code: Array) -> Iterator[Array]:
    """Yield the digits of 16 bits in which the numbers differ at all, the least significant first."""
    rest = code - code.min()
    top = int(rest.max())
    while top:
        yield (rest & 0xFFFF).astype(np.uint16)
        rest, top = rest >> _DIGIT_BITS, top >> _DIGIT_BITS
