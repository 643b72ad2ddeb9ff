"""The usage event: one fact of use. Its columns, and the rules that every value must pass.

Enters: what a caller says (a name, a quantity, a time, attributes). Leaves: the same, checked and in canonical form.
Refuses: floats, NaN, bools, exponents, names that could be mistaken for paths or hold control characters. A refused
value is a `BadEvent` with a reason; where rows arrive in batches the same reason goes into a dead letter.

Times: `event_time` is when it was used, `recorded_at` when we learnt of it; both UTC, microseconds.
Quantities: decimal(38, 9), at most 29 digits before the point and 9 behind it, exact.
Source of the rules: DESIGN sections 4 and 5.2 of the fault catalogue; number forms, price models section 9.
"""

from __future__ import annotations

import json
import re
import unicodedata
from datetime import UTC, datetime
from decimal import Context, Decimal
from functools import cache
from typing import TYPE_CHECKING, NoReturn

from metering.clock import to_us
from metering.errors import BadEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

NAME_BYTES_MAX = 128
KEY_BYTES_MAX = 128
ATTRIBUTES_MAX = 16
ATTRIBUTE_BYTES_MAX = 512
QUANTITY_DIGITS_MAX = 29
QUANTITY_PLACES_MAX = 9
# One source for the text of a number: Python here, RE2 in the importer. ASCII digits, no sign but a minus, no exponent.
QUANTITY_PATTERN = r"^-?[0-9]{1,29}(\.[0-9]{1,9})?$"
# Unicode's control characters, as RE2 and Python both read them.
CONTROL_PATTERN = r"[\x00-\x1f\x7f-\x9f]"
EVENT_TIME_MIN_US = 0
EVENT_TIME_MAX_US = to_us(datetime(2200, 1, 1, tzinfo=UTC))

# How often Arrow's units fit into a second.
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}

AttributeValue = str | int | bool | Decimal

_CONTROL = re.compile(CONTROL_PATTERN)
_QUANTITY = re.compile(QUANTITY_PATTERN)
_ATTRIBUTE_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$")
# A folder named like this means NULL to every reader of partitioned files.
_RESERVED_NAMES = frozenset({"__HIVE_DEFAULT_PARTITION__"})
_QUANTITY_LIMIT = Decimal(10) ** QUANTITY_DIGITS_MAX
_QUANTITY_STEP = Decimal(1).scaleb(-QUANTITY_PLACES_MAX)
_EXACT = Context(prec=60)
_INTEGER_MAX = 2**53


@cache
def usage_event_schema() -> pa.Schema:
    """Return USAGE_EVENT: one row per usage event. (producer_id, segment, row) is unique; gaps in it are visible.

    `correction` is null but in events that void or replace another one: canonical JSON, see metering.corrections.
    The partition `event_date` is the UTC date of `event_time`: a folder of the lake, never a second copy of the fact.
    """
    import pyarrow as pa

    instant = pa.timestamp("us", tz="UTC")
    return pa.schema(
        [
            pa.field("tenant_id", pa.string(), nullable=False),
            pa.field("meter", pa.string(), nullable=False),
            pa.field("quantity", pa.decimal128(38, 9), nullable=False),
            pa.field("event_time", instant, nullable=False),
            pa.field("recorded_at", instant, nullable=False),
            pa.field("producer_id", pa.string(), nullable=False),
            pa.field("segment", pa.int64(), nullable=False),
            pa.field("row", pa.int32(), nullable=False),
            pa.field("idempotency_key", pa.string()),
            pa.field("attributes", pa.string()),
            pa.field("correction", pa.string()),
        ]
    )


@cache
def dead_letter_schema() -> pa.Schema:
    """Return DEAD_LETTER: one row per refused row, with its reason and its original bytes, to be corrected and replayed.

    `event_date` is the UTC date of `event_time` where that could be read, else of `recorded_at`.
    """
    import pyarrow as pa

    instant = pa.timestamp("us", tz="UTC")
    return pa.schema(
        [
            pa.field("producer_id", pa.string(), nullable=False),
            pa.field("segment", pa.int64(), nullable=False),
            pa.field("row", pa.int32(), nullable=False),
            pa.field("recorded_at", instant, nullable=False),
            pa.field("tenant_id", pa.string()),
            pa.field("meter", pa.string()),
            pa.field("quantity", pa.decimal128(38, 9)),
            pa.field("event_time", instant),
            pa.field("event_date", pa.date32(), nullable=False),
            pa.field("reason", pa.string(), nullable=False),
            pa.field("detail", pa.string(), nullable=False),
            pa.field("original", pa.binary(), nullable=False),
        ]
    )


@cache
def control_total_type() -> pa.DataType:
    """Return the struct of one control total: rows and quantity per tenant, meter and UTC date, dead letters included."""
    import pyarrow as pa

    return pa.struct(
        [
            pa.field("tenant_id", pa.string()),
            pa.field("meter", pa.string()),
            pa.field("event_date", pa.date32()),
            pa.field("rows", pa.int64()),
            pa.field("quantity", pa.decimal128(38, 9)),
        ]
    )


@cache
def segment_schema() -> pa.Schema:
    """Return SEGMENT: one row per (producer, segment), the trailer that reconciliation checks the lake against.

    `rows` counts usage events and dead letters; `rows_before` those of the producer's earlier segments, so that a
    segment that never arrived is missing by an exact number. `dropped` counts events that the producer refused for want
    of room in its life so far, where it was told to drop and count; they are in no row of any segment. `sha256` is of the
    bytes as stored in the journal or the file. `trailer_sha256` is of what stands here as the segment's trailer, and the
    `previous_sha256` of the producer's next segment says the same: a trailer that was changed breaks the chain. It is
    null in rows of earlier releases.
    """
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("producer_id", pa.string(), nullable=False),
            pa.field("segment", pa.int64(), nullable=False),
            pa.field("kind", pa.string(), nullable=False),
            pa.field("rows", pa.int64(), nullable=False),
            pa.field("rows_before", pa.int64(), nullable=False),
            pa.field("dropped", pa.int64(), nullable=False),
            pa.field("sealed_at", pa.timestamp("us", tz="UTC"), nullable=False),
            pa.field("sha256", pa.string(), nullable=False),
            pa.field("previous_sha256", pa.string()),
            pa.field("trailer_sha256", pa.string()),
            pa.field("totals", pa.list_(control_total_type()), nullable=False),
        ]
    )


def check_name(text: object, what: str) -> str:
    """Return a tenant or meter name in NFC. Raise BadEvent `bad_<what>` unless it is 1 to 128 bytes of plain text.

    Composed and decomposed accents are one tenant, so names are normalised; `.` and `..` between slashes, control
    characters and outer blanks are refused, because somebody downstream will make a path or a cell of the name.
    """
    reason = f"bad_{what}"
    if not isinstance(text, str):
        _refuse(reason, f"{what} must be text, not {type(text).__name__}: {text!r}")
    name = unicodedata.normalize("NFC", text)
    if not name or name != name.strip():
        _refuse(reason, f"{what} {text!r} is empty or begins or ends with a blank; give the name itself")
    if _CONTROL.search(name):
        _refuse(reason, f"{what} {text!r} holds a control character such as a newline; names are one line of text")
    if "." in name and any(part in {".", ".."} for part in re.split(r"[/\\]", name)):
        _refuse(reason, f"{what} {text!r} reads like a path ('.' or '..'); use the plain identifier")
    if name in _RESERVED_NAMES:
        _refuse(reason, f"{what} {text!r} is a reserved word of partitioned files; use another name")
    size = _size(name, reason, what)
    if size > NAME_BYTES_MAX:
        _refuse(reason, f"{what} of {size} bytes is longer than {NAME_BYTES_MAX}; use a shorter identifier")
    return name


def check_key(text: object) -> str:
    """Return an idempotency key as it is. Raise BadEvent `bad_key` unless 1 to 128 bytes without control characters."""
    if not isinstance(text, str) or not text:
        _refuse("bad_key", f"an idempotency key is text of at least one character, not {text!r}")
    if _size(text, "bad_key", "idempotency key") > KEY_BYTES_MAX or _CONTROL.search(text):
        _refuse("bad_key", f"idempotency key {text[:40]!r} holds a control character or is over {KEY_BYTES_MAX} bytes")
    return text


def check_quantity(quantity: object, *, negative_allowed: bool = False) -> Decimal:
    """Return a quantity as a Decimal with at most 29 digits before and 9 behind the point. Exact: nothing is rounded.

    Takes int, Decimal, or text like `-?digits[.digits]`. Raises BadEvent `bad_quantity` for float, bool, NaN, infinity,
    exponents and surplus digits; `negative_quantity` where the meter does not allow negatives.
    """
    number: Decimal
    if isinstance(quantity, bool) or not isinstance(quantity, int | Decimal | str):
        kind = type(quantity).__name__
        _refuse("bad_quantity", f"quantity {quantity!r} is a {kind}: give an int, a Decimal or text, never a float")
    if isinstance(quantity, str):
        if not _QUANTITY.fullmatch(quantity):
            _refuse("bad_quantity", f"quantity {quantity[:60]!r} is not like 123 or -1.5 (at most 29 and 9 digits)")
        number = Decimal(quantity)
    else:
        number = Decimal(quantity)
        if not number.is_finite():
            _refuse("bad_quantity", f"quantity {quantity} is not a number that can be added up")
    # abs() would round to 28 digits.
    if number.copy_abs() >= _QUANTITY_LIMIT or _has_surplus_digits(number):
        _refuse("bad_quantity", f"quantity {_shown(number)} has more than 29 digits before or 9 behind the point")
    if number < 0 and not negative_allowed:
        _refuse("negative_quantity", f"quantity {number} is negative; the meter does not say negative_allowed: true")
    return number


def check_event_time(event_time: object) -> int:
    """Return an aware datetime as microseconds since 1970, UTC. Raise BadEvent `bad_event_time` if naive or not 1970..2199."""
    # A zone may know no offset, and is none then.
    if not isinstance(event_time, datetime) or event_time.utcoffset() is None:
        _refuse("bad_event_time", f"event_time {event_time!r} must be a datetime with a zone, e.g. datetime.now(UTC)")
    microseconds = to_us(event_time)
    if not EVENT_TIME_MIN_US <= microseconds < EVENT_TIME_MAX_US:
        _refuse("bad_event_time", f"event_time {event_time.isoformat()} is not in 1970 to 2199; check clock and unit")
    return microseconds


def event_time_limits(unit: str) -> tuple[int, int]:
    """Return the first instant that is taken and the first that is not any more, in this unit of Arrow since 1970.

    Instants are judged in their own unit: a cast to microseconds carries those that are far away back into these years.
    """
    per_second = PER_SECOND[unit]
    return EVENT_TIME_MIN_US * per_second // 10**6, EVENT_TIME_MAX_US * per_second // 10**6


def encode_attributes(attributes: Mapping[str, AttributeValue | None]) -> str | None:
    """Return attributes as one canonical JSON object (keys sorted, no blanks), or None when there are none.

    A value of None is the same as no attribute. Decimals and integers past 2**53 are written as text, digit for digit.
    Raises BadEvent `bad_attributes` for more than 16, odd names, other types, control characters, or over 512 bytes each.
    """
    present = {name: value for name, value in attributes.items() if value is not None}
    if not present:
        return None
    if len(present) > ATTRIBUTES_MAX:
        _refuse("bad_attributes", f"{len(present)} attributes are more than {ATTRIBUTES_MAX}; keep what prices use")
    pairs = (f"{json.dumps(name)}:{_encode_attribute(name, present[name])}" for name in sorted(present))
    return "{" + ",".join(pairs) + "}"


def _encode_attribute(name: str, value: AttributeValue) -> str:
    if not _ATTRIBUTE_NAME.fullmatch(name):
        _refuse(
            "bad_attributes", f"attribute name {name[:80]!r} must be letters, digits, '_', '.', '-', a letter first"
        )
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) <= _INTEGER_MAX:
        return str(value)
    if isinstance(value, int) or (isinstance(value, Decimal) and value.is_finite()):
        number = Decimal(value)
        if _plain_size(number) > ATTRIBUTE_BYTES_MAX:
            _refuse(
                "bad_attributes", f"attribute {name} is {_shown(number)}, which is over {ATTRIBUTE_BYTES_MAX} bytes"
            )
        # Readers of JSON turn such numbers into doubles; as text they keep their digits.
        return f'"{number:f}"'
    if not isinstance(value, str):
        _refuse("bad_attributes", f"attribute {name} is {value!r}: give text, int, bool or a finite Decimal")
    text = unicodedata.normalize("NFC", value)
    if _size(text, "bad_attributes", f"attribute {name}") > ATTRIBUTE_BYTES_MAX or _CONTROL.search(text):
        _refuse("bad_attributes", f"attribute {name} holds a control character or is over {ATTRIBUTE_BYTES_MAX} bytes")
    return json.dumps(text, ensure_ascii=False)


def _size(text: str, reason: str, what: str) -> int:
    """Return how many bytes a text takes. Refuse what has none: half of a pair that stands for one character."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        _refuse(reason, f"{what} {text[:40]!r} is not valid Unicode; decode it before recording")


def _plain_size(number: Decimal) -> int:
    """Return how many characters a finite number takes without an exponent, without writing it: they may be a billion."""
    exponent = number.as_tuple().exponent
    return 2 + max(number.adjusted(), 0) + max(-int(exponent), 0)


def _shown(number: Decimal) -> str:
    """Return a number for a message, in few characters."""
    text = str(number)
    return text if len(text) <= 2 * QUANTITY_DIGITS_MAX else f"{number:.9e}"


def _has_surplus_digits(number: Decimal) -> bool:
    # 1.5000000000 has ten places but only one that counts: trailing zeros are not surplus.
    return number != number.quantize(_QUANTITY_STEP, context=_EXACT)


def _refuse(reason: str, message: str) -> NoReturn:
    raise BadEvent(reason, message)
