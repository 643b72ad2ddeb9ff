"""A stored segment becomes rows: usage events and dead letters, decoded by the column.

Enters: a StoredSegment, whose hash was checked, and the meters' rules. Leaves: a SegmentBatch. Refuses: nothing; a row
that is damaged or breaks a rule becomes a dead letter with its reason and its bytes, and the rows around it go on.

A journal body is viewed as an array of slots; no loop runs per event, only one per distinct series, and per event that
carries a quantity beyond 64 bits or is damaged. Numbers are exact: quantities are built as 128-bit integers.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from metering.batch import SegmentBatch
from metering.clock import from_us
from metering.codes import repeated
from metering.corrections import split_correction
from metering.decode_details import key_array, read_details
from metering.errors import JournalDamaged
from metering.events import (
    dead_letter_schema,
    usage_event_schema,
)
from metering.journal_format import (
    AUXILIARY_KINDS,
    DETAIL,
    DETAIL_CHECKED,
    EVENT_KINDS,
    HAS_KEY,
    NANO,
    NO_SLOT,
    SERIES,
    SERIES_BYTES,
    SERIES_SLOT,
    SLOT,
    TEXT,
    TEXT_BYTES,
    TEXT_SLOT,
    WHOLE,
    WHOLE_DETAILED,
    WIDE_DETAILED,
)
from metering.narrow import (
    AS_NANO_MAX,
    FIRST_INSTANT,
    LIMIT_64,
    NANO_PER_UNIT,
    QUANTITY,
    common_type,
    nano_quantities,
    narrowest,
    whole_quantities,
    wide_quantities,
)
from metering.refusals import apply_rules, refuse_wide_sums
from metering.totals import control_totals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metering.meters import MeterRule
    from metering.segments import StoredSegment

    Rules = Mapping[str, MeterRule] | None

Array = np.ndarray[Any, Any]


def _lookup(*kinds: int) -> Array:
    """Return for each of the 256 kinds whether it is one of these: one indexed read per slot."""
    table = np.zeros(256, np.bool_)
    table[list(kinds)] = True
    return table


_IS_NO_ROW = _lookup(0, *AUXILIARY_KINDS)
_IS_EVENT = _lookup(*EVENT_KINDS)
_IS_PLAIN = _lookup(WHOLE, NANO)
_IS_WHOLE = _lookup(WHOLE, WHOLE_DETAILED)
_WORDS = SLOT // 8
_LINK_MASK = 0xFFFFFFFF
_INSTANT = pa.timestamp("us", tz="UTC")
_DAMAGED = "damaged"
_NO_TEXT = pa.scalar(None, pa.string())


@dataclass(slots=True)
class _Rows:
    """The rows of a journal segment while they are decoded; every array has one entry per row, in slot order."""

    slots: Array
    series: Array  # slot of the series
    quantity: Array  # 10^-9 in 64 bits, or 0 where `wide` has it; whole units if `is_whole`
    is_whole: bool
    wide: dict[int, int]
    time_ns: Array
    recorded_ns: Array
    keys: pa.Array | None  # None where no row has a key
    damaged: Array


def decode_segment(stored: StoredSegment, rules: Rules) -> SegmentBatch:
    """Return the rows of one segment. Raises JournalDamaged when a batch cannot be read although its hash is right."""
    if stored.trailer.kind == "batch":
        events, dead_letters = _decode_batch(stored, rules)
    else:
        events, dead_letters = _decode_journal(stored, rules)
    events, dead_letters = refuse_wide_sums(events, dead_letters)
    trailer = stored.trailer
    return SegmentBatch(
        producer_id=trailer.producer_id,
        segment=trailer.segment,
        kind=trailer.kind,
        rows=trailer.rows,
        rows_before=trailer.rows_before,
        sealed_at=trailer.sealed_at,
        sha256=trailer.sha256,
        previous_sha256=trailer.previous_sha256,
        events=events,
        dead_letters=dead_letters,
        totals=control_totals(events, dead_letters),
        dropped=trailer.dropped,
        trailer_sha256=trailer.next_chain().previous_sha256,
    )


def _decode_journal(stored: StoredSegment, rules: Rules) -> tuple[pa.Table, pa.Table]:
    body = stored.body
    rows = _read_rows(body)
    names = _read_series(body, rows)
    table = _event_table(stored, rows, names)
    refused = np.flatnonzero(rows.damaged)
    letters = [_damaged_letters(stored, body, rows, refused)] if len(refused) else []
    table = table.filter(pa.array(~rows.damaged)) if len(refused) else table
    good, bad = apply_rules(table, rules)
    return good, pa.concat_tables([*letters, bad]).sort_by("row") if letters else bad


def _read_rows(body: bytearray) -> _Rows:
    # Word by word: to copy whole slots as records took ten times as long.
    words = np.frombuffer(body, "<i8").reshape(-1, _WORDS)
    kinds = np.frombuffer(body, np.uint8)[SLOT - 1 :: SLOT].copy()
    at = np.flatnonzero(~_IS_NO_ROW[kinds])
    kinds_at = kinds[at]
    quantity, time_ns, check, link = (words[:, place][at] for place in range(_WORDS))
    link &= _LINK_MASK
    damaged = (quantity ^ time_ns ^ link) != check
    damaged |= ~_IS_EVENT[kinds_at]
    is_whole = _IS_WHOLE[kinds_at]
    all_whole = bool(is_whole.all()) and _bound(quantity) < LIMIT_64
    wide: dict[int, int] = {}
    if not all_whole:
        quantity, wide = _as_nano(quantity, is_whole)
    rows = _Rows(at, link, quantity, all_whole, wide, time_ns, time_ns, None, damaged)
    detailed = np.flatnonzero(~_IS_PLAIN[kinds_at] & ~damaged)
    if len(detailed):
        rows.recorded_ns = time_ns.copy()
        _read_details(body, rows, detailed, kinds_at[detailed] == WIDE_DETAILED)
    return rows


def _bound(numbers: Array) -> int:
    return max(-int(numbers.min()), int(numbers.max())) if len(numbers) else 0


def _as_nano(quantity: Array, is_whole: Array) -> tuple[Array, dict[int, int]]:
    """Return counts of 10^-9, of which some are whole units now, and those by row that need more than 64 bits."""
    too_wide = is_whole & ((quantity > AS_NANO_MAX) | (quantity < -AS_NANO_MAX))
    wide = {int(row): int(quantity[row]) * NANO_PER_UNIT for row in np.flatnonzero(too_wide)}
    scale = np.where(is_whole & ~too_wide, np.int64(NANO_PER_UNIT), np.int64(1))
    return np.where(too_wide, 0, quantity) * scale, wide


def _read_details(body: bytearray, rows: _Rows, detailed: Array, is_wide: Array) -> None:
    """Read the details of all rows that have one: by the column where they are as written, else one by one."""
    details = read_details(body, rows.series[detailed])
    details.is_sure[is_wide] = False
    sure = detailed[details.is_sure]
    rows.recorded_ns[sure] = details.recorded_ns[details.is_sure]
    rows.series[sure] = details.series[details.is_sure]
    rows.keys = key_array(len(rows.slots), detailed, details)
    keys: dict[int, str] = {}
    for row, wide in zip(detailed[~details.is_sure].tolist(), is_wide[~details.is_sure].tolist(), strict=True):
        _read_detail(body, rows, keys, row, is_wide=wide)
    if keys:
        rows.keys = pa.array([keys.get(row, key) for row, key in enumerate(rows.keys.to_pylist())], pa.string())


def _read_detail(body: bytearray, rows: _Rows, keys: dict[int, str], row: int, *, is_wide: bool) -> None:
    slot = bytes(body[rows.series[row] * SLOT : (rows.series[row] + 1) * SLOT])
    rows.damaged[row] = True
    if len(slot) != SLOT or slot[-1] != DETAIL:
        return
    recorded_ns, series, following, flags = DETAIL_CHECKED.unpack_from(slot)
    crc = int.from_bytes(slot[20:24], "little")
    text = _read_text(body, following)
    if text is None or zlib.crc32(text, zlib.crc32(slot[: DETAIL_CHECKED.size])) != crc:
        return
    parts = text.decode().split("\n")
    if is_wide:
        rows.wide[row] = int(parts.pop(0))
    if flags & HAS_KEY:
        keys[row] = parts.pop(0)
    rows.recorded_ns[row] = recorded_ns
    rows.series[row] = series
    rows.damaged[row] = False


def _read_text(body: bytearray, slot: int) -> bytes | None:
    """Return the bytes of a chain of text slots, or None where the chain is broken."""
    if slot == NO_SLOT:
        return b""
    pieces: list[bytes] = []
    slots = len(body) // SLOT
    while slot != NO_SLOT:
        # A damaged link could lead in a circle: no chain is longer than the segment.
        if slot >= slots or len(pieces) > slots:
            return None
        slot, length, piece, kind = TEXT_SLOT.unpack_from(body, slot * SLOT)
        if kind != TEXT or length > TEXT_BYTES:
            return None
        pieces.append(piece[:length])
    return b"".join(pieces)


def _read_series(body: bytearray, rows: _Rows) -> tuple[Array, list[tuple[str, str, str | None]]]:
    """Return, per row, the index of its series in the list of (meter, tenant, attributes) that is returned with it."""
    # The last entry stands for every link that leads out of the segment, and for rows that are damaged already.
    nowhere = len(body) // SLOT
    rows.series[rows.damaged | (rows.series > nowhere)] = nowhere
    is_used = np.zeros(nowhere + 1, np.bool_)
    is_used[rows.series] = True
    slots = np.flatnonzero(is_used)
    position_of = np.zeros(nowhere + 1, np.int32)
    position_of[slots] = np.arange(len(slots), dtype=np.int32)
    index = position_of[rows.series]
    names: list[tuple[str, str, str | None]] = []
    unreadable = []
    for position, slot in enumerate(slots.tolist()):
        text = _series_text(body, slot)
        if text is None:
            unreadable.append(position)
            names.append(("", "", None))
        else:
            meter, tenant, attributes = text.split("\n")
            names.append((meter, tenant, attributes or None))
    if unreadable:
        rows.damaged |= np.isin(index, unreadable)
    return index, names


def _series_text(body: bytearray, slot: int) -> str | None:
    start = slot * SLOT
    if start + SLOT > len(body):
        return None
    following, crc, length, head, kind = SERIES_SLOT.unpack_from(body, start)
    tail = _read_text(body, following) if kind == SERIES and length <= SERIES_BYTES else None
    if tail is None:
        return None
    text = head[:length] + tail
    return text.decode() if zlib.crc32(text) == crc else None


def _event_table(
    stored: StoredSegment, rows: _Rows, names: tuple[Array, list[tuple[str, str, str | None]]]
) -> pa.Table:
    index, series = names
    count = len(index)
    # Attributes and correction are one text in the journal, and parted once per series.
    parted = [split_correction(one[2]) for one in series]
    tenants, meters = (_named([one[place] for one in series], index) for place in (1, 0))
    attributes, corrections = (_named([one[place] for one in parted], index) for place in range(2))
    times = _instants(rows.time_ns)
    columns = [
        tenants,
        meters,
        _quantities(rows),
        times,
        times if rows.recorded_ns is rows.time_ns else _instants(rows.recorded_ns),
        *_origin(stored, count),
        repeated(_NO_TEXT, count) if rows.keys is None else rows.keys,
        attributes,
        corrections,
    ]
    return _typed(columns)


def _instants(time_ns: Array) -> pa.Array:
    return pa.array(time_ns // 1000, pa.int64()).cast(_INSTANT)


def _quantities(rows: _Rows) -> pa.Array:
    narrow = None
    if not rows.wide:
        narrow = whole_quantities(rows.quantity) if rows.is_whole else nano_quantities(rows.quantity)
    return wide_quantities(rows.quantity, rows.wide) if narrow is None else narrow


def _named(texts: list[Any], taken: Array) -> pa.Array | pa.ChunkedArray:
    """Return one text per row as codes, from the texts per series; series share most of their texts."""
    encoded = pa.array(texts, pa.string()).dictionary_encode()
    names = encoded.dictionary
    if len(names) + bool(encoded.null_count) == 1:
        return repeated(names[0] if len(names) else _NO_TEXT, len(taken))
    codes = narrowest(encoded.indices.fill_null(0).to_numpy(), 0, len(names))[taken]
    mask = encoded.indices.is_null().to_numpy(zero_copy_only=False)[taken] if encoded.null_count else None
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=mask), names)


def _typed(columns: list[Any]) -> pa.Table:
    """Return a table of USAGE_EVENT in which texts may be codes, and quantities narrower decimals."""
    fields = zip(usage_event_schema(), columns, strict=True)
    return pa.table(columns, schema=pa.schema([field.with_type(column.type) for field, column in fields]))


def _origin(stored: StoredSegment, count: int) -> list[Any]:
    return [
        repeated(pa.scalar(stored.trailer.producer_id), count),
        repeated(pa.scalar(stored.trailer.segment, pa.int64()), count),
        pa.array(np.arange(count, dtype=np.int32)),
    ]


def _damaged_letters(
    stored: StoredSegment,
    body: bytearray,
    rows: _Rows,
    refused: Array,
) -> pa.Table:
    sealed_at = from_us(stored.trailer.sealed_at)
    letters = [
        {
            "producer_id": stored.trailer.producer_id,
            "segment": stored.trailer.segment,
            "row": row,
            # The row's own time cannot be trusted; it was recorded before its segment was sealed.
            "recorded_at": sealed_at,
            "event_date": sealed_at.date(),
            "reason": _DAMAGED,
            "detail": f"slot {slot} of the segment, at byte {slot * SLOT} of its body, is not what was written",
            "original": bytes(body[slot * SLOT : (slot + 1) * SLOT]),
        }
        for row, slot in zip(refused.tolist(), rows.slots[refused].tolist(), strict=True)
    ]
    return pa.Table.from_pylist(letters, schema=dead_letter_schema())


def _decode_batch(stored: StoredSegment, rules: Rules) -> tuple[pa.Table, pa.Table]:
    try:
        table = pa.ipc.open_stream(pa.py_buffer(stored.body)).read_all()
        columns = {field.name: _batch_column(table[field.name], field) for field in table.schema}
    except (pa.ArrowInvalid, OSError) as error:
        raise JournalDamaged(f"{stored.path}: the batch cannot be read: {error}", path=str(stored.path)) from error
    unsaid = [name for name in ("tenant_id", "meter", "quantity", "event_time") if _is_unsaid(columns[name])]
    if unsaid:
        raise JournalDamaged(f"{stored.path}: a row has no {', '.join(unsaid)}", path=str(stored.path))
    count = table.num_rows
    columns |= dict(zip(("producer_id", "segment", "row"), _origin(stored, count), strict=True))
    for name in ("idempotency_key", "attributes", "correction"):
        columns.setdefault(name, repeated(_NO_TEXT, count))
    return apply_rules(_typed([columns[name] for name in usage_event_schema().names]), rules)


def _is_unsaid(column: pa.ChunkedArray) -> bool:
    """Return whether some row may have no value: itself, or in the dictionary that its code stands in."""
    if not pa.types.is_dictionary(column.type):
        return bool(column.null_count)
    return bool(column.null_count or any(chunk.dictionary.null_count for chunk in column.chunks))


def _batch_column(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """Return a column of a batch with the values of USAGE_EVENT; `tables` wrote it as narrow as they allow."""
    kind = column.type
    if pa.types.is_run_end_encoded(kind):
        # One value for every row; chunks without rows have none.
        return repeated(next(chunk for chunk in column.chunks if len(chunk)).values[0], len(column))
    if field.metadata and FIRST_INSTANT.encode() in field.metadata:
        first = int(field.metadata[FIRST_INSTANT.encode()])
        return pa.chunked_array([_after(first, chunk) for chunk in column.chunks], _INSTANT)
    if pa.types.is_integer(kind):
        return _whole_column(column)
    return column


def _after(first: int, chunk: pa.Array) -> pa.Array:
    return pa.array(chunk.to_numpy() + np.int64(first)).cast(_INSTANT)


def _whole_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    narrow = [chunk for chunk in (whole_quantities(one.to_numpy()) for one in column.chunks) if chunk is not None]
    if len(narrow) < column.num_chunks:
        return column.cast(QUANTITY)
    kind = common_type([chunk.type for chunk in narrow])
    return pa.chunked_array([chunk.cast(kind) for chunk in narrow], kind)
