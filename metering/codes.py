"""Columns that say little, kept small: texts as codes, and one value for every row.

Enters: Arrow columns. Leaves: the same values, a repeated text stored once, a repeated row not stored at all.
Refuses: nothing. Whoever reads a value from such a column reads the plain one; only its cost is another.

Between record_batch and the data files a text is compared, checked and moved as a code of four bytes. Most of what
capture cost per event was the first touch of fresh memory (about 3 ns per byte where a page is new), so what need not
be there is not made: a column with one value is one small array, again and again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Sequence

CODED = pa.dictionary(pa.int32(), pa.string())
_ROWS_REPEATED = 65_536


def repeated(value: pa.Scalar, count: int) -> pa.ChunkedArray:
    """Return a column of `count` rows that all hold this value; every chunk is the same memory. Text becomes codes."""
    rows = min(count, _ROWS_REPEATED)
    if pa.types.is_string(value.type):
        codes = pa.array(np.zeros(rows, np.int32), mask=None if value.is_valid else np.ones(rows, np.bool_))
        piece = pa.DictionaryArray.from_arrays(codes, pa.array([value.as_py()] if value.is_valid else [], pa.string()))
    else:
        piece = pa.repeat(value, rows)
    if not rows:
        return pa.chunked_array([piece])
    whole, rest = divmod(count, rows)
    return pa.chunked_array([piece] * whole + ([piece.slice(0, rest)] if rest else []))


def coded(column: Any) -> pa.ChunkedArray:
    """Return a column of text as codes of 32 bits."""
    if pa.types.is_dictionary(column.type):
        return column if column.type.equals(CODED) else column.cast(CODED)
    return pc.dictionary_encode(column)


def concat(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of tables that differ at most in which of their texts are codes."""
    first = tables[0]
    for place, field in enumerate(first.schema):
        if any(pa.types.is_dictionary(table.schema.types[place]) for table in tables):
            kind = field.with_type(CODED)
            tables = [table.set_column(place, kind, coded(table.column(place))) for table in tables]
    return pa.concat_tables(tables)


def whole(column: Any) -> pa.Array:
    """Return a column as one array; one chunk is taken as it is, where combine_chunks would copy it."""
    if isinstance(column, pa.Array):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def is_named(column: pa.ChunkedArray, names: Sequence[str]) -> pa.ChunkedArray:
    """Return, per row, whether its text is one of these; compared once per distinct text."""
    found = []
    for chunk in coded(column).chunks:
        among = pc.is_in(chunk.dictionary, pa.array(names, pa.string()))
        found.append(pc.fill_null(among.take(chunk.indices), False))
    return pa.chunked_array(found, pa.bool_())


def is_uniform(column: pa.ChunkedArray) -> bool:
    """Return whether every row is known to hold the same, so that no order changes anything."""
    if column.null_count:
        return bool(column.null_count == len(column))
    if pa.types.is_dictionary(column.type):
        first = column.chunk(0).dictionary if column.num_chunks else []
        return len(first) == 1 and all(chunk.dictionary.equals(first) for chunk in column.chunks)
    if not pa.types.is_integer(column.type) and not pa.types.is_timestamp(column.type):
        return False
    ends = pc.min_max(column)
    return bool(ends["min"] == ends["max"])
