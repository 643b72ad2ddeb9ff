"""Numbers in as few bytes as their values need, on their way from the journal to the data files.

Enters: exact quantities and whole numbers. Leaves: the same values in narrower Arrow types, and plain ones again.
Refuses: nothing, and rounds nothing: what does not fit stays as wide as it was.

Why: most of what capture cost per event was the first touch of fresh memory, then hashing and copying; all of them count
bytes. A quantity takes 16 bytes in USAGE_EVENT and four in most batches. So a column of quantities may be any of the
types of `QUANTITY_TYPES` until a row group is written; each of them reads as the same decimals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Sequence

    Array = np.ndarray[Any, Any]

NANO_PER_UNIT = 10**9
QUANTITY = pa.decimal128(38, 9)
WHOLE_32, WHOLE_64, NANO_64 = pa.decimal32(9, 0), pa.decimal64(18, 0), pa.decimal64(18, 9)
# What each holds below, and how many 10^-9 one of its units is.
QUANTITY_TYPES = {WHOLE_32: (np.int32, NANO_PER_UNIT), WHOLE_64: (np.int64, NANO_PER_UNIT), NANO_64: (np.int64, 1)}
LIMIT_32, LIMIT_64 = 10**9, 10**18
# Whole units up to this are still a 64-bit number of 10^-9.
AS_NANO_MAX = (2**63 - 1) // NANO_PER_UNIT
# In the metadata of a field of whole numbers: that they are microseconds after this instant, itself in microseconds.
FIRST_INSTANT = "first_instant_us"


def narrowest(numbers: Array, low: int, high: int) -> Array:
    """Return whole numbers from `low` to `high` in the smallest signed integers that hold both."""
    for kind in (np.int8, np.int16, np.int32):
        ends = np.iinfo(kind)
        if ends.min <= low and high <= ends.max:
            return numbers.astype(kind, copy=False)
    return numbers.astype(np.int64, copy=False)


def whole_quantities(numbers: Array) -> pa.Array | None:
    """Return whole units as decimals of 32 or 64 bits; None where they need more."""
    bound = max(-int(numbers.min()), int(numbers.max())) if len(numbers) else 0
    if bound >= LIMIT_64:
        return None
    if numbers.dtype.itemsize <= np.int32().itemsize and bound < LIMIT_32:
        return _of_words(numbers.astype(np.int32, copy=False), WHOLE_32)
    return _of_words(numbers.astype(np.int64, copy=False), WHOLE_64)


def nano_quantities(numbers: Array) -> pa.Array | None:
    """Return counts of 10^-9 as decimals of 64 bits; None where they need more."""
    bound = max(-int(numbers.min()), int(numbers.max())) if len(numbers) else 0
    return None if bound >= LIMIT_64 else _of_words(numbers, NANO_64)


def words(chunk: pa.Array) -> Array:
    """Return what a decimal array holds, as integers of its width, two of 64 bits per decimal128, the low one first.

    Not a copy; but what a null holds is 0, and for that there is one.
    """
    if not len(chunk):
        return np.empty((0, 2) if pa.types.is_decimal128(chunk.type) else 0, np.int64)
    kind = np.int32 if pa.types.is_decimal32(chunk.type) else np.int64
    held = np.frombuffer(chunk.buffers()[1], kind)
    if pa.types.is_decimal128(chunk.type):
        held = held.reshape(-1, 2)
    held = held[chunk.offset : chunk.offset + len(chunk)]
    if chunk.null_count:
        held = held.copy()
        held[chunk.is_null().to_numpy(zero_copy_only=False)] = 0
    return held


def wide_quantities(nano: Array, exceptions: dict[int, int] | None = None) -> pa.Array:
    """Return counts of 10^-9 as decimal128(38, 9): two words each. `exceptions` are rows that need more than 64 bits."""
    # From Arrow's pool, which gives the same warm memory again.
    buffer = pa.allocate_buffer(16 * len(nano))
    pairs = np.frombuffer(buffer, np.int64).reshape(-1, 2)
    pairs[:, 0] = nano
    np.right_shift(nano, 63, out=pairs[:, 1])
    for row, number in (exceptions or {}).items():
        pairs[row] = np.frombuffer(number.to_bytes(16, "little", signed=True), np.int64)
    return pa.Array.from_buffers(QUANTITY, len(nano), [None, buffer])


def plain_quantities(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of quantities as decimal128(38, 9), whichever of its types it has."""
    if column.type not in QUANTITY_TYPES:
        return column
    return pa.chunked_array([_plain(chunk) for chunk in column.chunks], QUANTITY)


def with_plain_quantities(table: pa.Table) -> pa.Table:
    """Return a table of USAGE_EVENT with its quantities as decimal128(38, 9)."""
    place = table.schema.get_field_index("quantity")
    field = table.schema.field(place).with_type(QUANTITY)
    return table.set_column(place, field, plain_quantities(table.column(place)))


def common_type(types: Sequence[pa.DataType]) -> pa.DataType:
    """Return the narrowest type of quantities that holds the values of all of these."""
    if len(set(types)) == 1:
        return types[0]
    return WHOLE_64 if set(types) == {WHOLE_32, WHOLE_64} else QUANTITY


def nano_per_unit(kind: pa.DataType) -> int:
    """Return how many 10^-9 one unit of what `words` says is."""
    return QUANTITY_TYPES[kind][1] if kind in QUANTITY_TYPES else 1


def has_negative(column: pa.ChunkedArray) -> bool:
    """Return whether a column of quantities without nulls holds one below zero."""
    # The upper word of a decimal128 has its sign.
    signs = (held if held.ndim == 1 else held[:, 1] for held in map(words, column.chunks))
    return any(len(held) and int(held.min()) < 0 for held in signs)


def is_narrow(column: pa.ChunkedArray) -> bool:
    """Return whether all of these numbers fit 64 bits; a null does."""
    if not pa.types.is_decimal128(column.type):
        return True
    # The upper word only repeats the sign.
    return all(bool((pair[:, 1] == pair[:, 0] >> 63).all()) for pair in map(words, column.chunks))


def _plain(chunk: pa.Array) -> pa.Array:
    if chunk.null_count:
        return chunk.cast(QUANTITY)
    unit = QUANTITY_TYPES[chunk.type][1]
    held = words(chunk)
    if (
        unit == NANO_PER_UNIT
        and held.dtype == np.int64
        and len(held)
        and max(-int(held.min()), int(held.max())) > AS_NANO_MAX
    ):
        return chunk.cast(QUANTITY)
    return wide_quantities(held if unit == 1 else held * np.int64(NANO_PER_UNIT))


def _of_words(numbers: Array, kind: pa.DataType) -> pa.Array:
    return pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(np.ascontiguousarray(numbers))])
