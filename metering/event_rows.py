"""Rows as a file had them, turned into usage events and dead letters.

Enters: RawRows, columns of text or exact numbers. Leaves: a USAGE_EVENT and a DEAD_LETTER table with shared row numbers.
Refuses: nothing as a whole. A row that breaks a rule of `metering.events` becomes a dead letter that names the rule.

Two readings of each rule. Columns are checked whole, which takes well under a second per million rows; each row that
fails is then judged alone by the scalar checks of `metering.events`, whose word is the reason. Should the two disagree,
the import stops: a test compares them over generated rows.
Times: text without an offset is UTC; digits behind the microsecond are cut off (floored), never rounded up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from metering.clock import from_us
from metering.errors import BadEvent, MeteringError
from metering.events import (
    ATTRIBUTES_MAX,
    CONTROL_PATTERN,
    EVENT_TIME_MAX_US,
    EVENT_TIME_MIN_US,
    KEY_BYTES_MAX,
    PER_SECOND,
    QUANTITY_DIGITS_MAX,
    QUANTITY_PATTERN,
    QUANTITY_PLACES_MAX,
    check_event_time,
    check_key,
    check_name,
    check_quantity,
    dead_letter_schema,
    encode_attributes,
    event_time_limits,
    usage_event_schema,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import pyarrow as pa

    from metering.meters import MeterRule

# ISO 8601, seconds required, at most nine digits behind them; RE2 and Python read it alike.
_DATE = r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
# PostgreSQL and DuckDB write +00, others +02:00 or +0200.
_OFFSET = r"Z|[+-](?:[01][0-9]|2[0-3])(?::?[0-5][0-9])?"
EVENT_TIME_PATTERN = rf"^(?P<day>{_DATE})[T ](?P<clock>{_TIME})(?P<fraction>\.[0-9]{{1,9}})?(?P<offset>{_OFFSET})?$"

_EVENT_TIME = re.compile(EVENT_TIME_PATTERN)


@dataclass(frozen=True, slots=True)
class RawRows:
    """One chunk of a file. All arrays have the same length; null means missing.

    quantity: text, integer or decimal; None for the array means that each row counts one. event_time: text or timestamp.
    attributes: canonical JSON; `bad_attributes` says why, per row, where there is none. `original` gives a row's bytes.
    """

    tenant_id: pa.Array
    meter: pa.Array
    quantity: pa.Array | None
    event_time: pa.Array
    idempotency_key: pa.Array | None
    attributes: pa.Array
    bad_attributes: Mapping[int, str]
    original: Callable[[int], bytes]
    sha256: str

    def __len__(self) -> int:
        return len(self.tenant_id)


@dataclass(frozen=True, slots=True)
class RowsAt:
    """Where rows stand: their producer and segment, and when they were learnt of (microseconds since 1970, UTC)."""

    producer_id: str
    segment: int
    recorded_at: int


def split_rows(raw: RawRows, rules: Mapping[str, MeterRule] | None, at: RowsAt) -> tuple[pa.Table, pa.Table]:
    """Return usage events and dead letters. Every row is in exactly one of them, under its number in the chunk."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    tenant = _checked_names(raw.tenant_id, "tenant")
    meter, may_be_negative = _checked_meters(raw.meter, rules)
    quantity = _exact_quantities(raw)
    event_time = _instants(raw.event_time)
    key, key_is_good = _checked_keys(raw.idempotency_key, len(raw))
    good = key_is_good
    for column in (tenant, meter, quantity, event_time):
        good &= _mask(pc.is_valid(column))
    good &= _mask(pc.or_(pc.greater_equal(quantity, pa.scalar(Decimal(0), quantity.type)), may_be_negative))
    good[list(raw.bad_attributes)] = False

    schema = usage_event_schema()
    count = len(raw)
    table = pa.table(
        {
            "tenant_id": tenant,
            "meter": meter,
            "quantity": quantity,
            "event_time": event_time,
            "recorded_at": pa.repeat(pa.scalar(at.recorded_at, schema.field("recorded_at").type), count),
            "producer_id": pa.repeat(pa.scalar(at.producer_id), count),
            "segment": pa.repeat(pa.scalar(at.segment, pa.int64()), count),
            "row": pa.array(np.arange(count, dtype=np.int32)),
            "idempotency_key": key,
            "attributes": raw.attributes,
            "correction": pa.nulls(count, pa.string()),
        }
    )
    events = table if good.all() else table.filter(pa.array(good))
    letters = [_dead_letter(raw, int(row), rules, at) for row in np.flatnonzero(~good)]
    return events.cast(schema), pa.Table.from_pylist(letters, schema=dead_letter_schema())


def parse_event_time(text: object) -> int:
    """Return ISO 8601 text as microseconds since 1970, UTC; no offset means UTC, digits past the sixth are cut off."""
    if not isinstance(text, str) or not _EVENT_TIME.fullmatch(text):
        raise BadEvent(
            "bad_event_time",
            f"event_time {_shown(text)} is not like 2026-10-01T12:00:00.123456Z or 2026-10-01 14:00:00+02:00",
        )
    try:
        moment = datetime.fromisoformat(text)
        return check_event_time(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError) as error:
        raise BadEvent("bad_event_time", f"event_time {text} does not exist: {error}") from None


def attribute_texts(columns: Mapping[str, pa.Array], count: int) -> tuple[pa.Array, dict[int, str]]:
    """Return the canonical attributes of each of `count` rows (null: none), and the reasons of rows that break a rule.

    Each distinct value of a column is encoded once, by `encode_attributes`; rows then join their columns' fragments in
    the order of names, which is what encoding the whole row would give.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    bad: dict[int, str] = {}
    fragments = []
    for name in sorted(columns):
        encoded = columns[name].dictionary_encode()
        texts, reasons = _fragments(name, encoded.dictionary.to_pylist())
        fragments.append(pc.fill_null(pa.array(texts, pa.string()).take(encoded.indices), ""))
        if reasons:
            for row, index in enumerate(encoded.indices.to_pylist()):
                if index in reasons:
                    bad.setdefault(row, reasons[index])
    if not fragments:
        return pa.nulls(count, pa.string()), bad
    # Fragments bring their own comma: null_handling="skip" of pyarrow 26 loses rows in which every column is null.
    joined = pc.utf8_rtrim(pc.binary_join_element_wise(*fragments, ""), ",")
    rows = pc.binary_join_element_wise("{", joined, "}", "")
    rows = pc.if_else(pc.equal(joined, ""), pa.scalar(None, pa.string()), rows)
    if len(fragments) > ATTRIBUTES_MAX:
        present = np.sum([_mask(pc.not_equal(one, "")) for one in fragments], axis=0)
        for row in np.flatnonzero(present > ATTRIBUTES_MAX).tolist():
            bad.setdefault(row, f"{present[row]} attributes are more than {ATTRIBUTES_MAX}; keep what prices use")
    return rows, bad


def _fragments(name: str, values: list[Any]) -> tuple[list[str | None], dict[int, str]]:
    texts: list[str | None] = []
    reasons: dict[int, str] = {}
    for index, value in enumerate(values):
        try:
            text = encode_attributes({name: value})
            texts.append(None if text is None else f"{text[1:-1]},")
        except BadEvent as error:
            texts.append(None)
            reasons[index] = error.message
    return texts, reasons


def _checked_names(names: pa.Array, what: str) -> pa.Array:
    # A file has few distinct names: each is checked once by the scalar rule, rows take the answer by index.
    import pyarrow as pa

    encoded = names.dictionary_encode()
    answers = [_or_none(check_name, name, what) for name in encoded.dictionary.to_pylist()]
    return pa.array(answers, pa.string()).take(encoded.indices)


def _checked_meters(names: pa.Array, rules: Mapping[str, MeterRule] | None) -> tuple[pa.Array, pa.Array]:
    import pyarrow as pa

    encoded = names.dictionary_encode()
    answers = [_or_none(_known_meter, name, rules) for name in encoded.dictionary.to_pylist()]
    negative = [bool(rules and name is not None and rules[name].negative_allowed) for name in answers]
    return (
        pa.array(answers, pa.string()).take(encoded.indices),
        pa.array(negative, pa.bool_()).take(encoded.indices).fill_null(False),
    )


def _known_meter(name: object, rules: Mapping[str, MeterRule] | None) -> str:
    meter = check_name(name, "meter")
    if rules is not None and meter not in rules:
        raise BadEvent("unknown_meter", f"meter {meter!r} is not in the catalog; add it and apply, or correct the name")
    return meter


def _exact_quantities(raw: RawRows) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    exact = pa.decimal128(38, 9)
    column = raw.quantity
    if column is None:
        return pa.repeat(pa.scalar(Decimal(1), exact), len(raw))
    if pa.types.is_string(column.type):
        well_formed = pc.match_substring_regex(column, QUANTITY_PATTERN)
        return pc.if_else(well_formed, column, pa.scalar(None, pa.string())).cast(exact)
    if pa.types.is_integer(column.type):
        return column.cast(pa.decimal128(38, 0)).cast(exact)
    places = column.type.scale
    if 0 <= places <= QUANTITY_PLACES_MAX and column.type.precision - places <= QUANTITY_DIGITS_MAX:
        return column.cast(exact)
    # Wider than ours: only the digits that are there decide, one by one.
    numbers = [_or_none(_judged_quantity, value) for value in column.to_pylist()]
    return pa.array(numbers, exact)


def _judged_quantity(value: object) -> Decimal:
    return check_quantity(value, negative_allowed=True)


def _instants(column: pa.Array) -> pa.Array:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_string(column.type):
        return _instants_of_text(column)
    per_second = PER_SECOND[column.type.unit]
    ticks = pc.fill_null(column.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    first, end = event_time_limits(column.type.unit)
    good = (ticks >= first) & (ticks < end)
    ticks = np.where(good, ticks, 0)
    microseconds = ticks // 1_000 if per_second > 1_000_000 else ticks * (1_000_000 // per_second)
    return pa.array(microseconds, mask=~good).cast(pa.timestamp("us", tz="UTC"))


def _instants_of_text(column: pa.Array) -> pa.Array:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = pc.extract_regex(column, EVENT_TIME_PATTERN)
    matched = _mask(pc.is_valid(parts))
    day, clock, fraction, offset = (pc.struct_field(parts, name) for name in ("day", "clock", "fraction", "offset"))
    try:
        local = pc.binary_join_element_wise(day, clock, " ").cast(pa.timestamp("s"))
    except pa.ArrowInvalid:
        # Some day does not exist, such as 30 February: find out which, one by one.
        return pa.array([_or_none(parse_event_time, text) for text in column.to_pylist()], pa.int64()).cast(
            pa.timestamp("us", tz="UTC")
        )
    seconds = pc.fill_null(local.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    # ".5" is 500000 microseconds: fill up to six digits on the right, cut what is behind them.
    digits = pc.utf8_slice_codeunits(pc.utf8_rpad(pc.utf8_slice_codeunits(fraction, 1), 6, "0"), 0, 6)
    sixths = pc.fill_null(digits, "0").cast(pa.int64()).to_numpy(zero_copy_only=False)
    zones = pc.fill_null(offset, "").dictionary_encode()
    shifts = np.array([_offset_seconds(text) for text in zones.dictionary.to_pylist()], dtype=np.int64)
    shift = shifts[zones.indices.to_numpy(zero_copy_only=False)] if len(shifts) else seconds
    microseconds = (seconds - shift) * 1_000_000 + sixths
    good = matched & (microseconds >= EVENT_TIME_MIN_US) & (microseconds < EVENT_TIME_MAX_US)
    return pa.array(np.where(good, microseconds, 0), mask=~good).cast(pa.timestamp("us", tz="UTC"))


def _offset_seconds(text: str) -> int:
    if text in {"", "Z"}:
        return 0
    digits = text[1:].replace(":", "")
    seconds = int(digits[:2]) * 3600 + int(digits[2:] or "0") * 60
    return -seconds if text[0] == "-" else seconds


def _checked_keys(keys: pa.Array | None, count: int) -> tuple[pa.Array, np.ndarray[Any, Any]]:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if keys is None:
        return pa.nulls(count, pa.string()), np.ones(count, dtype=bool)
    size = pc.binary_length(keys)
    bad = pc.or_(pc.match_substring_regex(keys, CONTROL_PATTERN), pc.greater(size, KEY_BYTES_MAX))
    bad = pc.or_(bad, pc.equal(size, 0))
    # No key is fine; a bad one is not the same as none.
    return keys, ~_mask(pc.fill_null(bad, False))


def _dead_letter(raw: RawRows, row: int, rules: Mapping[str, MeterRule] | None, at: RowsAt) -> dict[str, object]:
    """Judge one row by the scalar rules alone: the first that it breaks is its reason, what can be read is kept."""
    values: dict[str, Any] = {"tenant_id": None, "meter": None, "quantity": None, "event_time": None}
    errors: list[BadEvent] = []

    def keep(name: str, check: Callable[[], Any]) -> None:
        try:
            values[name] = check()
        except BadEvent as error:
            errors.append(error)

    meter = raw.meter[row].as_py()
    keep("tenant_id", lambda: check_name(raw.tenant_id[row].as_py(), "tenant"))
    keep("meter", lambda: check_name(meter, "meter"))
    keep("known", lambda: _known_meter(values["meter"], rules) if values["meter"] else None)
    keep("quantity", lambda: _judged_quantity(1 if raw.quantity is None else raw.quantity[row].as_py()))
    rule = rules.get(values["meter"]) if rules and values["meter"] else None
    if values["quantity"] is not None:
        is_allowed = bool(rule and rule.negative_allowed)
        keep("sign", lambda: check_quantity(values["quantity"], negative_allowed=is_allowed))
    keep("event_time", lambda: _judged_time(raw.event_time[row]))
    if raw.idempotency_key is not None and raw.idempotency_key[row].is_valid:
        keep("key", lambda: check_key(raw.idempotency_key[row].as_py() if raw.idempotency_key is not None else None))
    if row in raw.bad_attributes:
        errors.append(BadEvent("bad_attributes", raw.bad_attributes[row]))
    if not errors:
        raise MeteringError(f"row {row} of segment {at.segment} is refused by the column checks and fine by itself")
    instant = at.recorded_at if values["event_time"] is None else values["event_time"]
    return {
        "producer_id": at.producer_id,
        "segment": at.segment,
        "row": row,
        "recorded_at": from_us(at.recorded_at),
        "tenant_id": values["tenant_id"],
        "meter": values["meter"],
        "quantity": values["quantity"],
        "event_time": None if values["event_time"] is None else from_us(values["event_time"]),
        "event_date": _utc_date(instant),
        "reason": errors[0].reason,
        "detail": "; ".join(error.message for error in errors),
        "original": raw.original(row),
    }


def _judged_time(value: pa.Scalar) -> int:
    import pyarrow as pa

    if pa.types.is_string(value.type) or not value.is_valid:
        return parse_event_time(value.as_py())
    # Python integers: nothing overflows, and // floors.
    microseconds = int(value.value) * 1_000_000 // PER_SECOND[value.type.unit]
    if not EVENT_TIME_MIN_US <= microseconds < EVENT_TIME_MAX_US:
        raise BadEvent(
            "bad_event_time", f"event_time of {microseconds} µs since 1970 is not in 1970 to 2199; check unit"
        )
    return microseconds


def _utc_date(microseconds: int) -> date:
    return from_us(microseconds).date()


def _or_none(check: Callable[..., Any], *arguments: object) -> Any:
    try:
        return check(*arguments)
    except BadEvent:
        return None


def _mask(array: pa.Array) -> np.ndarray[Any, Any]:
    import pyarrow.compute as pc

    mask: np.ndarray[Any, Any] = pc.fill_null(array, False).to_numpy(zero_copy_only=False).copy()
    return mask


def _shown(value: object) -> str:
    return "is missing and" if value is None else repr(str(value)[:60])
