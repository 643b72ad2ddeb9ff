"""Control totals: rows and quantity of one segment per tenant, meter and UTC date, exact whatever the quantities are.

Enters: usage events and dead letters of one segment, texts plain or as codes. Leaves: control totals in a fixed order.
Refuses: a sum beyond 38 digits; `refusals.refuse_wide_sums` has set aside the rows that would make one.

Problem: pyarrow adds decimals in 128 bits and wraps without a word: two rows of 9e28 units became a negative total.
So quantities are added here as whole numbers, in limbs of 32 bits whose sums cannot leave 64 bits, and put together as
Python integers, one per group. Where the numbers are small, which is nearly always, one limb does. Names are grouped by
code: no text is compared per row. Rows are added in parts that stay in the processor's cache: `numpy.add.at` then takes
1.4 ns per row and limb, where pyarrow's `group_by` took 10.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metering.errors import MeteringError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pyarrow as pa

    Array = np.ndarray[Any, Any]

KEYS = ("tenant_id", "meter", "event_date")
# A sum of decimal(38, 9), counted in 10^-9, has at most 38 digits.
SUM_LIMIT = 10**38
_LIMB_BITS = 32
_LIMBS = 4
_DAY_US = 86_400_000_000
# So few groups are all kept, also those without a row.
_GROUPS_FEW = 4096
# Beyond so many possible groups per row, groups are numbered by sorting them.
_SPARSE = 4
_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True, slots=True)
class Grouped:
    """Rows of a segment by group: each row's group, and per group its keys, its rows and its sum in 10^-9 (null: none).

    A group may be without rows.
    """

    group_of: Array
    keys: pa.Table
    rows: list[int]
    sums: list[int | None]


def control_totals(events: pa.Table, dead_letters: pa.Table) -> pa.Table:
    """Return rows and quantity per tenant, meter and UTC date of event_time, dead letters included, in a fixed order.

    A dead letter whose tenant, meter or quantity could not be read counts its row under null and adds no quantity.
    """
    import pyarrow as pa

    from metering.events import control_total_type

    schema = pa.schema(list(control_total_type()))
    found = grouped(events, dead_letters)
    wide = [total for total in found.sums if total is not None and abs(total) >= SUM_LIMIT]
    if wide:
        raise MeteringError(
            f"a control total of {wide[0]} times 10^-9 units has more than 38 digits; refuse its rows first"
        )
    # Groups that no row is in are left out.
    kept = [group for group, rows in enumerate(found.rows) if rows]
    keys = found.keys.take(pa.array(kept, pa.int64()))
    rows, sums = [found.rows[group] for group in kept], [found.sums[group] for group in kept]
    columns = [*keys.columns, pa.array(rows, pa.int64()), decimals_of(sums)]
    return pa.table(columns, schema=schema).sort_by([(key, "ascending") for key in KEYS])


def sums_by(table: pa.Table, keys: Sequence[str], column: str) -> list[dict[str, Any]]:
    """Return one row per group with its keys, `sum` and `count` of a column of decimals, nulls left out. Exact up to 76 digits.

    For tables of some rows; pyarrow adds in 256 bits here, which no number of rows of 38 digits leaves.
    """
    import pyarrow as pa

    wide = table[column].cast(pa.decimal256(76, table[column].type.scale))
    found = table.select(list(keys)).append_column("added", wide).group_by(list(keys))
    counted = found.aggregate([("added", "sum"), ("added", "count")])
    rows: list[dict[str, Any]] = counted.rename_columns([*keys, "sum", "count"]).to_pylist()
    return rows


def grouped(events: pa.Table, dead_letters: pa.Table) -> Grouped:
    """Return the groups of events, followed by dead letters, and what they add up to."""
    import numpy as np
    import pyarrow as pa

    first, span, day_of = _days(events["event_time"], dead_letters["event_date"])
    tenant_of, tenants = _coded([events["tenant_id"], dead_letters["tenant_id"]])
    meter_of, meters = _coded([events["meter"], dead_letters["meter"]])
    possible = len(tenants) * len(meters) * span
    # In no more bytes than the number of groups needs, and no step where all rows have the same.
    kind = np.int16 if possible <= _GROUPS_FEW else np.int64
    group_of = np.zeros(events.num_rows + dead_letters.num_rows, kind)
    for part_of, size in ((tenant_of, len(tenants)), (meter_of, len(meters)), (day_of, span)):
        if size > 1:
            group_of *= kind(size)
        if not isinstance(part_of, int):
            group_of += part_of.astype(kind, copy=False)
    numbers, group_of = _renumbered(group_of, possible) if possible > _GROUPS_FEW else (np.arange(possible), group_of)
    names, date_of = numbers // span, pa.array((numbers % span + first).astype(np.int32)).cast(pa.date32())
    keys = [tenants.take(pa.array(names // len(meters))), meters.take(pa.array(names % len(meters))), date_of]
    rows, sums = _add_up([events["quantity"], dead_letters["quantity"]], group_of, len(numbers))
    return Grouped(group_of, pa.table(keys, names=list(KEYS)), rows, sums)


def _renumbered(group_of: Array, possible: int) -> tuple[Array, Array]:
    """Return the numbers of the groups that have rows, and the place of each row's group among them."""
    import numpy as np

    if possible > _SPARSE * len(group_of) + 1024:
        return np.unique(group_of, return_inverse=True)
    is_there = np.zeros(possible, np.bool_)
    is_there[group_of] = True
    numbers = np.flatnonzero(is_there)
    dense = np.zeros(possible, np.int32)
    dense[numbers] = np.arange(len(numbers), dtype=np.int32)
    return numbers, dense[group_of]


def decimals_of(numbers: Sequence[int | None]) -> pa.Array:
    """Return whole numbers of 10^-9 as decimal128(38, 9), without Decimal's own limit of digits."""
    import pyarrow as pa

    content = b"".join((number or 0).to_bytes(16, "little", signed=True) for number in numbers)
    plain = pa.Array.from_buffers(pa.decimal128(38, 9), len(numbers), [None, pa.py_buffer(content)])
    if None not in numbers:
        return plain
    is_none = pa.array([number is None for number in numbers], pa.bool_())
    return pa.compute.if_else(is_none, pa.scalar(None, plain.type), plain)


def _days(times: pa.ChunkedArray, dates: pa.ChunkedArray) -> tuple[int, int, Array | int]:
    """Return the first day since 1970, UTC, how many days there are, and each row's; 0 for all where it is one day."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    instants = pa.chunked_array([chunk.view(pa.int64()) for chunk in times.chunks], pa.int64())
    # Floor: an instant before 1970 belongs to the day that it is in.
    ends = [pc.min_max(instants).as_py()[end] for end in ("min", "max")] if len(instants) else []
    days = [end // _DAY_US for end in ends] + dates.cast(pa.int32()).to_pylist()
    if not days:
        return 0, 1, 0
    first, span = min(days), max(days) - min(days) + 1
    if span == 1:
        return first, span, 0
    rest = np.array(days[len(ends) :], np.int64)
    return first, span, np.concatenate([instants.to_numpy() // _DAY_US, rest]) - first


def _coded(columns: list[pa.ChunkedArray]) -> tuple[Array | int, pa.Array]:
    """Return a code per row, or 0 for all, and the names that codes stand for; the last name is null, for rows without."""
    import pyarrow as pa

    from metering.codes import concat_texts

    column = concat_texts([one for one in columns if len(one)] or columns[:1]).unify_dictionaries()
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    if not chunks:
        return 0, pa.nulls(1, pa.string())
    names = chunks[0].dictionary
    if len(names) == 1 and not column.null_count:
        return 0, pa.concat_arrays([names, pa.nulls(1, pa.string())])
    # A narrow code may not count up to the one that stands for none.
    indices = [
        chunk.indices.cast(pa.int32()).fill_null(len(names)) if chunk.null_count else chunk.indices for chunk in chunks
    ]
    return _joined([one.to_numpy() for one in indices]), pa.concat_arrays([names, pa.nulls(1, pa.string())])


def _add_up(quantities: list[pa.ChunkedArray], group_of: Array, groups: int) -> tuple[list[int], list[int | None]]:
    """Return per group its rows and the exact sum of its quantities in 10^-9; None where no row of it has a quantity."""
    import numpy as np

    from metering.narrow import nano_per_unit, words

    rows, unsaid = np.zeros(groups, np.int64), np.zeros(groups, np.int64)
    sums = [0] * groups
    start = 0
    for column in quantities:
        limbs = np.zeros((_LIMBS, groups), np.int64)
        for chunk in column.chunks:
            numbers = words(chunk)
            if chunk.null_count:
                is_null = chunk.is_null().to_numpy(zero_copy_only=False)
                np.add.at(unsaid, group_of[start : start + len(chunk)][is_null], 1)
            # Part by part, so that everything in between stays in the cache and in warm memory.
            for at in range(0, len(chunk), _ROWS_AT_ONCE):
                part = numbers[at : at + _ROWS_AT_ONCE]
                group = group_of[start + at : start + at + len(part)].astype(np.int64)
                if groups <= _GROUPS_FEW:
                    rows += np.bincount(group, minlength=groups)
                else:
                    np.add.at(rows, group, 1)
                for limb, added in zip(limbs, _limbs(part, len(group_of)), strict=False):
                    np.add.at(limb, group, added)
            start += len(chunk)
        unit = nano_per_unit(column.type)
        for place in np.flatnonzero(limbs.any(axis=1)).tolist():
            sums = [
                total + (added << (_LIMB_BITS * place)) * unit
                for total, added in zip(sums, limbs[place].tolist(), strict=True)
            ]
    has_any = (rows > unsaid).tolist()
    return rows.tolist(), [total if has else None for total, has in zip(sums, has_any, strict=True)]


def _limbs(numbers: Array, rows: int) -> list[Array]:
    """Return numbers in pieces of 32 bits, the lowest first, of which only the uppermost has a sign.

    In one piece where the sum of so many rows cannot leave 62 bits; what else is added to that limb leaves it room.
    """
    import numpy as np

    mask = 2**_LIMB_BITS - 1
    if numbers.ndim == 1:
        if max(-int(numbers.min()), int(numbers.max())) * rows < 2**62:
            return [numbers.astype(np.int64, copy=False)]
        return [numbers & mask, numbers >> _LIMB_BITS]
    low, high = np.ascontiguousarray(numbers[:, 0]), np.ascontiguousarray(numbers[:, 1])
    if (high == low >> 63).all():
        return _limbs(low, rows)
    return [low & mask, (low >> _LIMB_BITS) & mask, high & mask, high >> _LIMB_BITS]


def _joined(arrays: list[Array]) -> Array:
    import numpy as np

    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
