"""Control totals: rows and quantity of one segment per tenant, meter and UTC date, exact whatever the quantities are.

Enters: usage events and dead letters of one segment, texts plain or as codes. Leaves: control totals in a fixed order.
Refuses: a sum beyond 38 digits; `refusals.refuse_wide_sums` has set aside the rows that would make one.

Problem: pyarrow adds decimals in 128 bits and wraps without a word: two rows of 9e28 units became a negative total.
So quantities are added here as whole numbers of 10^-9, in limbs of 32 bits whose sums cannot leave 64 bits, and put
together as Python integers, one per group. Where every quantity of a segment fits 64 bits, which is nearly always, two
limbs do. Names are grouped by code: no text is compared per row.
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
_DAY_US = 86_400_000_000
# Beyond so many possible groups per row, groups are numbered by sorting them.
_SPARSE = 4
_ROWS_AT_ONCE = 131_072


@dataclass(frozen=True, slots=True)
class Grouped:
    """Rows of a segment by group: each row's group, and per group its keys, its rows and its sum in 10^-9 (null: none)."""

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
    columns = [*found.keys.columns, pa.array(found.rows, pa.int64()), decimals_of(found.sums)]
    return pa.table(columns, schema=schema).sort_by([(key, "ascending") for key in KEYS])


def grouped(events: pa.Table, dead_letters: pa.Table) -> Grouped:
    """Return the groups of events, followed by dead letters, and what they add up to."""
    import numpy as np
    import pyarrow as pa

    both = {name: [events[name], dead_letters[name]] for name in ("tenant_id", "meter", "quantity")}
    first, span, day_of = _days(events["event_time"], dead_letters["event_date"])
    tenant_of, tenants = _coded(both["tenant_id"])
    meter_of, meters = _coded(both["meter"])
    group_of = (tenant_of * np.int64(len(meters)) + meter_of) * span + day_of
    possible = len(tenants) * len(meters) * span
    if possible > _SPARSE * len(group_of) + 1024:
        numbers, group_of = np.unique(group_of, return_inverse=True)
    else:
        is_there = np.zeros(possible, np.bool_)
        is_there[group_of] = True
        numbers = np.flatnonzero(is_there)
        dense = np.zeros(possible, np.int32)
        dense[numbers] = np.arange(len(numbers), dtype=np.int32)
        group_of = dense[group_of]
    rows = np.bincount(group_of, minlength=len(numbers)).tolist()
    names, date_of = numbers // span, pa.array((numbers % span + first).astype(np.int32)).cast(pa.date32())
    keys = [tenants.take(pa.array(names // len(meters))), meters.take(pa.array(names % len(meters))), date_of]
    return Grouped(group_of, pa.table(keys, names=list(KEYS)), rows, _sums(both["quantity"], group_of, len(numbers)))


def words(column: pa.ChunkedArray) -> list[Array]:
    """Return decimals as two words of 64 bits each, the low one first, one array per chunk; a null is 0. Not a copy."""
    import numpy as np

    found = []
    for chunk in column.chunks:
        whole = chunk.fill_null(0) if chunk.null_count else chunk
        if len(whole):
            pairs = np.frombuffer(whole.buffers()[1], np.int64).reshape(-1, 2)
            found.append(pairs[whole.offset : whole.offset + len(whole)])
    return found


def is_narrow(pairs: list[Array]) -> bool:
    """Return whether all of these numbers fit 64 bits: the upper word only repeats the sign."""
    return all(bool((pair[:, 1] == pair[:, 0] >> 63).all()) for pair in pairs)


def decimals_of(numbers: Sequence[int | None]) -> pa.Array:
    """Return whole numbers of 10^-9 as decimal128(38, 9), without Decimal's own limit of digits."""
    import pyarrow as pa

    content = b"".join((number or 0).to_bytes(16, "little", signed=True) for number in numbers)
    plain = pa.Array.from_buffers(pa.decimal128(38, 9), len(numbers), [None, pa.py_buffer(content)])
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


def _coded(columns: list[pa.ChunkedArray]) -> tuple[Array, pa.Array]:
    """Return a code per row and the names that codes stand for; the last name is null, for rows without one."""
    import numpy as np
    import pyarrow as pa

    kind = pa.dictionary(pa.int32(), pa.string())
    encoded = [column if pa.types.is_dictionary(column.type) else column.dictionary_encode() for column in columns]
    chunks = [chunk for column in encoded for chunk in column.cast(kind).chunks if len(chunk)]
    if not chunks:
        return np.empty(0, np.int64), pa.nulls(1, pa.string())
    chunks = pa.chunked_array(chunks, kind).unify_dictionaries().chunks
    names = chunks[0].dictionary
    indices = [chunk.indices.fill_null(len(names)) if chunk.null_count else chunk.indices for chunk in chunks]
    return _joined([one.to_numpy() for one in indices]), pa.concat_arrays([names, pa.nulls(1, pa.string())])


def _sums(quantities: list[pa.ChunkedArray], group_of: Array, groups: int) -> list[int | None]:
    import numpy as np
    import pyarrow as pa

    if not groups:
        return []
    pairs = [pair for column in quantities for pair in words(column)]
    low = _joined([pair[:, 0] for pair in pairs])
    # The upper words only where they say more than the sign.
    high = None if is_narrow(pairs) else _joined([pair[:, 1] for pair in pairs])
    limbs = np.zeros((2 if high is None else 4, groups), np.int64)
    # Part by part, so that everything in between stays in the cache and in warm memory.
    for start in range(0, len(low), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        columns = _limbs(low[part], None if high is None else high[part])
        table = pa.table(
            [pa.array(group_of[part]), *map(pa.array, columns)], names=["group", *map(str, range(len(columns)))]
        )
        added = table.group_by("group", use_threads=False).aggregate(
            [(str(place), "sum") for place in range(len(columns))]
        )
        limbs[:, added["group"].to_numpy()] += np.stack(
            [added[f"{place}_sum"].to_numpy() for place in range(len(columns))]
        )
    sums: list[int | None] = [
        sum(limb << (_LIMB_BITS * place) for place, limb in enumerate(column)) for column in limbs.T.tolist()
    ]
    if any(column.null_count for column in quantities):
        is_valid = np.concatenate([column.is_valid().to_numpy() for column in quantities])
        has_any = np.bincount(group_of[is_valid], minlength=groups) > 0
        return [one if has else None for one, has in zip(sums, has_any.tolist(), strict=True)]
    return sums


def _limbs(low: Array, high: Array | None) -> list[Array]:
    """Return numbers of two words in pieces of 32 bits, the lowest first; only the uppermost has a sign."""
    mask = 2**_LIMB_BITS - 1
    if high is None:
        return [low & mask, low >> _LIMB_BITS]
    return [low & mask, (low >> _LIMB_BITS) & mask, high & mask, high >> _LIMB_BITS]


def _joined(arrays: list[Array]) -> Array:
    import numpy as np

    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
