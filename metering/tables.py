"""A table of usage events becomes one Arrow batch, checked by the column: all of its rows or none.

Enters: anything with `__arrow_c_stream__`: Arrow, polars, pandas, DuckDB. Leaves: the bytes of an Arrow stream with the
columns that a caller of USAGE_EVENT knows. Refuses: a batch with any bad row (BadEvent names the first of them).

Names, keys and attributes are checked once per distinct value. Columns are first cast as a whole, exactly; only where
that fails are rows looked at one by one, with the same checks that `record()` uses, to say which are bad and why.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metering.codes import one_text, repeated, whole
from metering.errors import BadEvent, UnknownMeter
from metering.events import (
    KEY_BYTES_MAX,
    QUANTITY_PATTERN,
    check_key,
    check_name,
    check_quantity,
    encode_attributes,
    event_time_limits,
)
from metering.narrow import FIRST_INSTANT, LIMIT_64, NANO_64, QUANTITY, has_negative, is_narrow, narrowest, words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from metering.meters import MeterRule

    Rules = Mapping[str, MeterRule] | None

# An Arrow array, chunked or not; pyarrow comes without types.
Column = Any

REQUIRED = ("tenant_id", "meter", "quantity", "event_time")
OWN_COLUMNS = (*REQUIRED, "idempotency_key", "attributes")
NAMED_ROWS_MAX = 10
_INSTANT = pa.timestamp("us", tz="UTC")


def encode_batch(table: Any, *, rules: Rules, recorded_at: int) -> tuple[int, memoryview]:
    """Return how many rows a table has and its checked Arrow stream. `recorded_at` in microseconds since 1970, UTC.

    Raises BadEvent, with `rows` (the first bad ones, counted from 0) where a row is bad, and UnknownMeter.
    """
    try:
        rows = check_table(_as_arrow(table), rules)
    except UnicodeDecodeError as error:
        # Arrow's libraries take each other's bytes for text unseen.
        raise BadEvent("bad_text", f"{error.object[:40]!r} is not UTF-8; nothing of this batch was recorded") from None
    if not rows.num_rows:
        return 0, memoryview(b"")
    instant = pa.scalar(recorded_at, pa.int64()).cast(_INSTANT)
    narrow = [_narrow(name, column) for name, column in zip(rows.column_names, rows.columns, strict=True)]
    content = pa.table([column for column, _ in narrow], schema=pa.schema([field for _, field in narrow]))
    content = content.append_column("recorded_at", pa.chunked_array([_same_in_all(instant, len(rows))]))
    # Measured first: a sink that grows copies what it holds and touches fresh memory each time.
    measure = pa.MockOutputStream()
    _write_stream(measure, content)
    body = pa.allocate_buffer(measure.size())
    _write_stream(pa.FixedSizeBufferWriter(body), content)
    return len(rows), memoryview(body)


def _write_stream(sink: pa.NativeFile, content: pa.Table) -> None:
    with pa.ipc.new_stream(sink, content.schema) as stream:
        stream.write_table(content)


def _same_in_all(value: pa.Scalar, rows: int) -> pa.Array:
    return pa.RunEndEncodedArray.from_arrays(pa.array([rows], pa.int32()), pa.array([value], value.type))


def _narrow(name: str, column: Column) -> tuple[pa.Array, pa.Field]:
    """Return a checked column as narrow as its values allow, and its field; `decode` knows each of these forms."""
    array, metadata = whole(column), None
    if array.null_count == len(array):
        array = _same_in_all(pa.scalar(None, pa.string()), len(array))
    elif pa.types.is_dictionary(array.type):
        array = _narrow_codes(array)
    elif pa.types.is_int64(array.type):
        numbers = array.to_numpy()
        array = pa.array(narrowest(numbers, int(numbers.min()), int(numbers.max())))
    elif pa.types.is_decimal(array.type) and is_narrow(pa.chunked_array([array])):
        low = words(array)[:, 0]
        if -LIMIT_64 < int(low.min()) <= int(low.max()) < LIMIT_64:
            array = pa.Array.from_buffers(NANO_64, len(low), [None, pa.py_buffer(np.ascontiguousarray(low))])
    elif pa.types.is_timestamp(array.type):
        array, metadata = _narrow_instants(array)
    return array, pa.field(name, array.type, metadata=metadata)


def _narrow_codes(codes: pa.DictionaryArray) -> pa.Array:
    if len(codes.dictionary) == 1 and not codes.null_count:
        return _same_in_all(codes.dictionary[0], len(codes))
    kind = narrowest(np.empty(0, np.int64), 0, len(codes.dictionary)).dtype
    return pa.DictionaryArray.from_arrays(codes.indices.cast(pa.from_numpy_dtype(kind)), codes.dictionary)


def _narrow_instants(instants: pa.TimestampArray) -> tuple[pa.Array, dict[str, str] | None]:
    """Return instants, or how many microseconds after the first of them each is, and the field's metadata that says so."""
    numbers = instants.view(pa.int64()).to_numpy()
    first, last = int(numbers.min()), int(numbers.max())
    if first == last:
        return _same_in_all(instants[0], len(instants)), None
    kind = narrowest(np.empty(0, np.int64), 0, last - first).dtype
    if kind == np.int64:
        return instants, None
    after = np.empty(len(numbers), kind)
    return pa.array(np.subtract(numbers, first, out=after, casting="unsafe")), {FIRST_INSTANT: str(first)}


def check_table(table: pa.Table, rules: Rules) -> pa.Table:
    """Return tenant_id, meter, quantity, event_time, idempotency_key and attributes, each row checked: names and
    attributes as codes, whole quantities as int64, a column without values as nulls."""
    missing = [name for name in REQUIRED if name not in table.column_names]
    if missing:
        raise BadEvent("bad_columns", f"the table has no column {', '.join(missing)}; it needs {', '.join(REQUIRED)}")
    for name in REQUIRED:
        if table[name].null_count:
            _refuse_rows(f"bad_{name.removesuffix('_id')}", f"{name} is empty", pc.is_null(table[name]))
    tenants = _names(table["tenant_id"], "tenant")
    meters = _names(table["meter"], "meter")
    if rules is not None:
        for name in sorted(set(meters.dictionary.to_pylist()) - set(rules)):
            raise UnknownMeter(
                f"meter {name!r} is not in the catalog that was applied; nothing was recorded", meter=name
            )
    return pa.table(
        {
            "tenant_id": tenants,
            "meter": meters,
            "quantity": _quantities(table["quantity"], meters, rules),
            "event_time": _event_times(table["event_time"]),
            "idempotency_key": _keys(table),
            "attributes": _attributes(table),
        }
    )


def _as_arrow(table: Any) -> pa.Table:
    kind = type(table).__name__
    if not hasattr(table, "__arrow_c_stream__"):
        raise BadEvent("bad_columns", f"{kind} is not a table: give Arrow, polars, pandas or a DuckDB relation")
    try:
        found = table if isinstance(table, pa.Table) else pa.RecordBatchReader.from_stream(table).read_all()
    except pa.ArrowException as error:
        raise BadEvent("bad_columns", f"{kind} cannot be read as an Arrow table: {error}") from None
    names = found.column_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadEvent("bad_columns", f"the table has more than one column {', '.join(twice)}; nothing was recorded")
    return pa.table([_plain_codes(column) for column in found.columns], names=names)


def _plain_codes(column: Column) -> Column:
    """Return codes as codes of plain text, and null where their dictionary has null; any other column as it is."""
    kind = column.type
    if not pa.types.is_dictionary(kind):
        return column
    is_wide = _is_text(kind.value_type) and not pa.types.is_string(kind.value_type)
    if not is_wide and not any(chunk.dictionary.null_count for chunk in column.chunks):
        return column
    chunks = []
    for chunk in column.chunks:
        values = chunk.dictionary.cast(pa.string()) if is_wide else chunk.dictionary
        chunks.append(_renamed(chunk, values))
    return pa.chunked_array(chunks, pa.dictionary(pa.int32(), pa.string() if is_wide else kind.value_type))


def _names(column: Column, what: str) -> Column:
    return _mapped(_text_or_codes(column, what), lambda name: check_name(name, what), f"bad_{what}")


def _text_or_codes(column: Column, what: str) -> Column:
    """Return a column of text as it is where it is a dictionary of text."""
    if pa.types.is_dictionary(column.type) and pa.types.is_string(column.type.value_type):
        return column
    return _text(column, what)


def _text(column: Column, what: str) -> Column:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_null(column.type) or _is_text(column.type)):
        raise BadEvent(f"bad_{what}", f"{what} must be a column of text, not {column.type}; nothing was recorded")
    return column.cast(pa.string())


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _mapped(column: Column, check: Callable[[str], str | None], reason: str) -> pa.DictionaryArray:
    """Return text as codes, each distinct value replaced by what `check` makes of it; nulls stay."""
    encoded = _codes_of(column)
    values = encoded.dictionary.to_pylist()
    checked = []
    for position, value in enumerate(values):
        try:
            checked.append(check(value))
        except BadEvent as error:
            is_bad = pc.equal(encoded.indices, position)
            _refuse_rows(error.reason, error.message, is_bad)
        except (ValueError, TypeError) as error:
            _refuse_rows(reason, f"{value[:60]!r}: {error}", pc.equal(encoded.indices, position))
    return encoded if checked == values else _renamed(encoded, pa.array(checked, pa.string()))


def _codes_of(column: Column) -> pa.DictionaryArray:
    """Return text as codes of 32 bits; each distinct value that some row has is in the dictionary once, and no other."""
    if not pa.types.is_dictionary(column.type):
        text = one_text(column)
        if text is not None:
            return whole(repeated(pa.scalar(text), len(column)))
        return whole(pc.dictionary_encode(column))
    given = whole(column.unify_dictionaries() if isinstance(column, pa.ChunkedArray) else column)
    used = np.bincount(given.indices.drop_null().to_numpy(), minlength=len(given.dictionary))
    # A caller's dictionary may name what no row has; that is no reason to refuse anything.
    return _renamed(given, pc.if_else(pa.array(used > 0), given.dictionary, pa.scalar(None, given.dictionary.type)))


def _renamed(encoded: pa.DictionaryArray, values: pa.Array) -> pa.DictionaryArray:
    """Return codes for other values per code, of which some may be the same or null."""
    again = values.dictionary_encode()
    return pa.DictionaryArray.from_arrays(again.indices.take(encoded.indices), again.dictionary)


def _quantities(column: Column, meters: pa.DictionaryArray, rules: Rules) -> Column:
    kind = column.type
    is_exact = pa.types.is_integer(kind) or pa.types.is_decimal(kind)
    is_text = _is_text(kind)
    if not (is_exact or is_text):
        raise BadEvent("bad_quantity", f"quantity is a column of {kind}: give integers, decimals or text, never floats")
    column = _text(column, "quantity") if is_text else column
    exact = None
    # A cast to decimal drops nothing without saying so; text is checked first, because casts accept more than we do.
    if not is_text or pc.all(pc.match_substring_regex(column, QUANTITY_PATTERN), min_count=0).as_py():
        try:
            # Whole numbers stay as they are: 64 bits hold all but the upper half of uint64.
            is_whole = pa.types.is_integer(kind) and not (pa.types.is_uint64(kind) and _is_beyond_int64(column))
            exact = column.cast(pa.int64() if is_whole else QUANTITY)
        except pa.ArrowInvalid:
            exact = None
    if exact is None:
        exact = pa.array(_one_by_one(column, check_quantity_of_any_sign), QUANTITY)
    if _has_negative(exact):
        is_negative = pc.less(exact, pa.scalar(0, exact.type))
        allowed = [name for name, rule in (rules or {}).items() if rule.negative_allowed]
        among = pc.is_in(meters.dictionary, pa.array(allowed, pa.string())).take(meters.indices)
        is_refused = pc.and_(is_negative, pc.invert(among))
        if pc.any(is_refused).as_py():
            _refuse_rows("negative_quantity", "quantity is negative where the meter does not allow it", is_refused)
    return exact


def _is_beyond_int64(column: Column) -> bool:
    return bool((pc.min_max(column)["max"].as_py() or 0) >= 2**63)


def _has_negative(exact: Column) -> bool:
    if pa.types.is_integer(exact.type):
        return bool((pc.min_max(exact)["min"].as_py() or 0) < 0)
    return has_negative(exact if isinstance(exact, pa.ChunkedArray) else pa.chunked_array(exact))


def check_quantity_of_any_sign(quantity: object) -> Decimal:
    return check_quantity(quantity, negative_allowed=True)


def _one_by_one(column: Column, check: Callable[[object], Decimal]) -> list[Decimal]:
    checked, bad, message = [], [], ""
    for position, value in enumerate(column.to_pylist()):
        try:
            checked.append(check(value))
        except BadEvent as error:
            bad.append(position)
            message = message or error.message
            if len(bad) == NAMED_ROWS_MAX:
                break
    if bad:
        raise _bad_rows("bad_quantity", message, bad)
    return checked


def _event_times(column: Column) -> Column:
    if not pa.types.is_timestamp(column.type) or column.type.tz is None:
        raise BadEvent("bad_event_time", f"event_time is a column of {column.type}; it must be a timestamp with a zone")
    numbers = column.cast(pa.int64())
    first, end = event_time_limits(column.type.unit)
    ends = pc.min_max(numbers).as_py()
    if ends["min"] is not None and not first <= ends["min"] <= ends["max"] < end:
        is_far = pc.or_(pc.less(numbers, first), pc.greater_equal(numbers, end))
        _refuse_rows("bad_event_time", "event_time is not in 1970 to 2199; check clock and unit", is_far)
    # Nanoseconds are cut to the microsecond they lie in: the lake knows no finer instant.
    return column.cast(_INSTANT, safe=False)


def _keys(table: pa.Table) -> Column:
    if "idempotency_key" not in table.column_names:
        return pa.nulls(table.num_rows)
    keys = _text(table["idempotency_key"], "key")
    if keys.null_count == len(keys):
        return keys
    for chunk in keys.chunks:
        try:
            chunk.validate(full=True)
        except pa.ArrowInvalid as error:
            raise BadEvent(
                "bad_key", f"idempotency_key is not text: {error}; nothing of this batch was recorded"
            ) from None
    # Keys are all different: they are judged by the column, and one by one only to say what is wrong.
    size = pc.binary_length(keys)
    is_bad = pc.or_(pc.or_(pc.less(size, 1), pc.greater(size, KEY_BYTES_MAX)), _has_control(keys))
    if pc.any(is_bad, min_count=0).as_py():
        position = pc.index(pc.fill_null(is_bad, False), pa.scalar(True)).as_py()
        try:
            check_key(keys[position].as_py())
        except BadEvent as error:
            _refuse_rows(error.reason, error.message, is_bad)
    return keys


def _has_control(text: Column) -> Column:
    # RE2 on bytes of UTF-8: C0 and DEL as themselves, C1 as two bytes.
    return pc.match_substring_regex(text, r"[\x00-\x1f\x7f\x{80}-\x{9f}]")


def _attributes(table: pa.Table) -> Column:
    if "attributes" in table.column_names:
        return _mapped(_text_or_codes(table["attributes"], "attributes"), canonical_attributes, "bad_attributes")
    names = [name for name in table.column_names if name not in OWN_COLUMNS]
    if not names:
        return pa.nulls(table.num_rows)
    for name in names:
        if not _can_be_attribute(table[name].type):
            said = f"attribute {name} is a column of {table[name].type}: give text, integers, decimals or booleans"
            raise BadEvent("bad_attributes", f"{said}, never floats; nothing of this batch was recorded")
    return _attribute_sets({name: table[name] for name in names})


def _can_be_attribute(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _can_be_attribute(kind.value_type)
    is_exact = pa.types.is_integer(kind) or pa.types.is_decimal(kind)
    return _is_text(kind) or is_exact or pa.types.is_boolean(kind) or pa.types.is_null(kind)


def _attribute_sets(columns: dict[str, Column]) -> pa.DictionaryArray:
    """Return one code per row for its set of attributes: many rows share few sets, and each is encoded once."""
    set_of = np.zeros(len(next(iter(columns.values()))), np.int64)
    members: list[dict[str, Any]] = [{}]
    for name, column in columns.items():
        encoded = _codes_of(column)
        values = [*encoded.dictionary.to_pylist(), None]
        codes = encoded.indices.fill_null(len(values) - 1).to_numpy()
        # A set is numbered anew with every column, so numbers stay as few as the sets that some row has.
        found = pa.array(set_of * len(values) + codes).dictionary_encode()
        members = [
            members[one // len(values)] | {name: values[one % len(values)]} for one in found.dictionary.to_pylist()
        ]
        set_of = found.indices.to_numpy().astype(np.int64)
    encoded_sets = []
    for number, values_of in enumerate(members):
        try:
            encoded_sets.append(encode_attributes(values_of))
        except BadEvent as error:
            raise _bad_rows(
                error.reason, error.message, np.flatnonzero(set_of == number)[:NAMED_ROWS_MAX].tolist()
            ) from None
    numbers = pa.DictionaryArray.from_arrays(
        pa.array(set_of.astype(np.int32)), pa.array(range(len(members)), pa.int32())
    )
    return _renamed(numbers, pa.array(encoded_sets, pa.string()))


def canonical_attributes(text: str) -> str | None:
    """Return a JSON object of attributes in canonical form: keys sorted, no blanks, decimals with all their digits."""
    try:
        document = json.loads(text, parse_float=Decimal, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise BadEvent("bad_attributes", f"attributes {text[:60]!r} is not a JSON object: {error}") from None
    if not isinstance(document, dict):
        raise BadEvent("bad_attributes", f"attributes {text[:60]!r} is not a JSON object")
    return encode_attributes(document)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a name is given twice")
    return document


def _refuse_rows(reason: str, message: str, is_bad: Column) -> NoReturn:
    rows = pc.indices_nonzero(pc.fill_null(is_bad, False)).to_pylist()
    raise _bad_rows(reason, message, rows[:NAMED_ROWS_MAX])


def _bad_rows(reason: str, message: str, rows: list[int]) -> BadEvent:
    named = ", ".join(str(row) for row in rows)
    return BadEvent(reason, f"{message} (rows {named}, counted from 0); nothing of this batch was recorded", rows=rows)
