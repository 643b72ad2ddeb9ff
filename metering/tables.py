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

import pyarrow as pa
import pyarrow.compute as pc

from metering.errors import BadEvent, UnknownMeter
from metering.events import (
    EVENT_TIME_MAX_US,
    EVENT_TIME_MIN_US,
    KEY_BYTES_MAX,
    QUANTITY_PATTERN,
    check_key,
    check_name,
    check_quantity,
    encode_attributes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from metering.meters import MeterRule

    Rules = Mapping[str, MeterRule] | None

# An Arrow array, chunked or not; pyarrow comes without types.
Column = Any

REQUIRED = ("tenant_id", "meter", "quantity", "event_time")
OWN_COLUMNS = (*REQUIRED, "idempotency_key", "attributes")
NAMED_ROWS_MAX = 10
_DECIMAL = pa.decimal128(38, 9)
_INSTANT = pa.timestamp("us", tz="UTC")


def encode_batch(table: Any, *, rules: Rules, recorded_at: int) -> tuple[int, memoryview]:
    """Return how many rows a table has and its checked Arrow stream. `recorded_at` in microseconds since 1970, UTC.

    Raises BadEvent, with `rows` (the first bad ones, counted from 0), and UnknownMeter.
    """
    rows = check_table(_as_arrow(table), rules)
    rows = rows.append_column("recorded_at", pa.repeat(pa.scalar(recorded_at, pa.int64()).cast(_INSTANT), len(rows)))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    return len(rows), memoryview(sink.getvalue())


def check_table(table: pa.Table, rules: Rules) -> pa.Table:
    """Return tenant_id, meter, quantity, event_time, idempotency_key, attributes in their own types, each row checked."""
    missing = [name for name in REQUIRED if name not in table.column_names]
    if missing:
        raise BadEvent("bad_columns", f"the table has no column {', '.join(missing)}; it needs {', '.join(REQUIRED)}")
    for name in REQUIRED:
        if table[name].null_count:
            _refuse_rows(f"bad_{name.removesuffix('_id')}", f"{name} is empty", pc.is_null(table[name]))
    tenants = _names(table["tenant_id"], "tenant")
    meters = _names(table["meter"], "meter")
    if rules is not None:
        for name in sorted(set(pc.unique(meters).to_pylist()) - set(rules)):
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
    if isinstance(table, pa.Table):
        return table
    if not hasattr(table, "__arrow_c_stream__"):
        kind = type(table).__name__
        raise BadEvent("bad_columns", f"{kind} is not a table: give Arrow, polars, pandas or a DuckDB relation")
    return pa.RecordBatchReader.from_stream(table).read_all()


def _names(column: Column, what: str) -> Column:
    return _mapped(_text(column, what), lambda name: check_name(name, what), f"bad_{what}")


def _text(column: Column, what: str) -> Column:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type) or pa.types.is_string(column.type):
        return column.cast(pa.string())
    if not (pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type)):
        raise BadEvent(f"bad_{what}", f"{what} must be a column of text, not {column.type}; nothing was recorded")
    return column.cast(pa.string())


def _mapped(column: Column, check: Callable[[str], str | None], reason: str) -> Column:
    """Return a text column with each distinct value replaced by what `check` makes of it; nulls stay."""
    encoded = column.combine_chunks().dictionary_encode()
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
    if checked == values:
        return column
    return pa.array(checked, pa.string()).take(encoded.indices)


def _quantities(column: Column, meters: Column, rules: Rules) -> Column:
    kind = column.type
    is_exact = pa.types.is_integer(kind) or pa.types.is_decimal(kind)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not (is_exact or is_text):
        raise BadEvent("bad_quantity", f"quantity is a column of {kind}: give integers, decimals or text, never floats")
    column = _text(column, "quantity") if is_text else column
    exact = None
    # A cast to decimal drops nothing without saying so; text is checked first, because casts accept more than we do.
    if not is_text or pc.all(pc.match_substring_regex(column, QUANTITY_PATTERN), min_count=0).as_py():
        try:
            exact = column.cast(_DECIMAL)
        except pa.ArrowInvalid:
            exact = None
    if exact is None:
        exact = pa.array(_one_by_one(column, check_quantity_of_any_sign), _DECIMAL)
    is_negative = pc.less(exact, pa.scalar(Decimal(0), _DECIMAL))
    if pc.any(is_negative, min_count=0).as_py():
        allowed = [name for name, rule in (rules or {}).items() if rule.negative_allowed]
        is_refused = pc.and_(is_negative, pc.invert(pc.is_in(meters, pa.array(allowed, pa.string()))))
        if pc.any(is_refused).as_py():
            _refuse_rows("negative_quantity", "quantity is negative where the meter does not allow it", is_refused)
    return exact


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
    # Nanoseconds are cut to the microsecond they lie in: the lake knows no finer instant.
    times = column.cast(_INSTANT, safe=False)
    if column.type.unit == "ns":
        times = pc.floor_temporal(column, unit="microsecond").cast(_INSTANT, safe=False)
    microseconds = times.cast(pa.int64())
    is_far = pc.or_(pc.less(microseconds, EVENT_TIME_MIN_US), pc.greater_equal(microseconds, EVENT_TIME_MAX_US))
    if pc.any(is_far, min_count=0).as_py():
        _refuse_rows("bad_event_time", "event_time is not in 1970 to 2199; check clock and unit", is_far)
    return times


def _keys(table: pa.Table) -> Column:
    if "idempotency_key" not in table.column_names:
        return pa.nulls(table.num_rows, pa.string())
    keys = _text(table["idempotency_key"], "key")
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
        return _mapped(_text(table["attributes"], "attributes"), canonical_attributes, "bad_attributes")
    names = [name for name in table.column_names if name not in OWN_COLUMNS]
    if not names:
        return pa.nulls(table.num_rows, pa.string())
    for name in names:
        if pa.types.is_floating(table[name].type):
            raise BadEvent("bad_attributes", f"attribute {name} is a column of {table[name].type}: never floats")
    # Many rows share few sets of attributes: encode each distinct set once, and take it where it belongs.
    positions = table.select(names).append_column("_row", pa.array(range(table.num_rows), pa.int64()))
    groups = positions.group_by(names).aggregate([("_row", "list")])
    encoded = []
    for values, rows in zip(groups.select(names).to_pylist(), groups["_row_list"], strict=True):
        try:
            encoded.append(encode_attributes(values))
        except BadEvent as error:
            raise _bad_rows(error.reason, error.message, rows.as_py()[:NAMED_ROWS_MAX]) from None
    lengths = pc.list_value_length(groups["_row_list"]).to_pylist()
    group_of = pa.array([group for group, length in enumerate(lengths) for _ in range(length)], pa.int32())
    order = pc.sort_indices(pc.list_flatten(groups["_row_list"]))
    return pa.array(encoded, pa.string()).take(group_of.take(order))


def canonical_attributes(text: str) -> str | None:
    """Return a JSON object of attributes in canonical form: keys sorted, no blanks, decimals with all their digits."""
    try:
        document = json.loads(text, parse_float=Decimal, object_pairs_hook=_without_duplicates)
    except ValueError as error:
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
