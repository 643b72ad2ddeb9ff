"""Columns that say little, kept small: texts as codes, and one value for every row.

Enters: Arrow columns. Leaves: the same values, a repeated text stored once, a repeated row not stored at all.
Refuses: nothing. Whoever reads a value from such a column reads the plain one; only its cost is another.

Between record_batch and the data files a text is compared, checked and moved as a code of one to four bytes. Most of what
capture cost per event was the first touch of fresh memory (about 3 ns per byte where a page is new), so what need not
be there is not made: a column with one value is one small array, again and again.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metering.narrow import common_type

if TYPE_CHECKING:
    from collections.abc import Sequence

CODED = pa.dictionary(pa.int32(), pa.string())
_ROWS_REPEATED = 65_536
_SAMPLE = 1024


def repeated(value: pa.Scalar, count: int) -> pa.ChunkedArray:
    """Return a column of `count` rows that all hold this value; every chunk is the same memory. Text becomes codes."""
    piece = _piece(value, _ROWS_REPEATED)
    whole_pieces, rest = divmod(count, _ROWS_REPEATED)
    return pa.chunked_array([piece] * whole_pieces + ([piece.slice(0, rest)] if rest else []), piece.type)


@functools.lru_cache(maxsize=16)
def _piece(value: pa.Scalar, rows: int) -> pa.Array:
    # Each segment of a producer has the same few, and none of them ever changes.
    if not pa.types.is_string(value.type):
        return pa.repeat(value, rows)
    codes = pa.array(np.zeros(rows, np.int8), mask=None if value.is_valid else np.ones(rows, np.bool_))
    return pa.DictionaryArray.from_arrays(codes, pa.array([value.as_py()] if value.is_valid else [], pa.string()))


def coded(column: Any) -> pa.ChunkedArray:
    """Return a column of text as codes, as narrow as they are, or of 32 bits."""
    return column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)


def concat(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of tables that differ at most in which of their texts are codes, and in how wide numbers are."""
    if len(tables) == 1:
        return tables[0]
    columns, fields = [], []
    for place, field in enumerate(tables[0].schema):
        parts = [table.column(place) for table in tables]
        if any(pa.types.is_dictionary(part.type) for part in parts):
            column = concat_texts(parts)
        else:
            kind = common_type([part.type for part in parts]) if pa.types.is_decimal(field.type) else field.type
            column = _joined([part.cast(kind) for part in parts])
        columns.append(column)
        fields.append(field.with_type(column.type))
    return pa.table(columns, schema=pa.schema(fields))


def concat_texts(columns: Sequence[Any]) -> pa.ChunkedArray:
    """Return columns of text, one after the other, as codes of one dictionary, in narrow codes if they have room."""
    parts = [coded(column) for column in columns]
    if all(part.type.equals(parts[0].type) for part in parts):
        with contextlib.suppress(pa.ArrowInvalid):
            return _joined(parts).unify_dictionaries()
    return _joined([part if part.type.equals(CODED) else part.cast(CODED) for part in parts]).unify_dictionaries()


def _joined(parts: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    return pa.chunked_array([chunk for part in parts for chunk in part.chunks], parts[0].type)


def whole(column: Any) -> pa.Array:
    """Return a column as one array; one chunk is taken as it is, where combine_chunks would copy it."""
    if isinstance(column, pa.Array):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def one_text(column: Any) -> str | None:
    """Return the text of every row where all rows hold the same, known by comparing bytes; None where it was not seen.

    Encoding a text costs 15 ns a row, and many batches are of one meter. This costs 2, and next to nothing where the
    first rows differ already.
    """
    chunks = [chunk for chunk in getattr(column, "chunks", [column]) if len(chunk)]
    if not chunks or not pa.types.is_string(column.type) or column.null_count:
        return None
    first: str = chunks[0][0].as_py()
    said = np.frombuffer(first.encode(), np.uint8)
    if not len(said):
        return None
    pieces = (chunk.slice(at, _ROWS_REPEATED) for chunk in chunks for at in range(0, len(chunk), _ROWS_REPEATED))
    return first if _all_say(chunks[0].slice(0, _SAMPLE), said) and all(_all_say(one, said) for one in pieces) else None


def _all_say(texts: pa.StringArray, said: Any) -> bool:
    size = len(said)
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    if int(offsets[-1]) - int(offsets[0]) != size * len(texts) or (np.diff(offsets) != size).any():
        return False
    content = np.frombuffer(texts.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    # The first is this text, and each byte is that of the text before.
    return bool((content[:size] == said).all() and (content[size:] == content[:-size]).all())


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
