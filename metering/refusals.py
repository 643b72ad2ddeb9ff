"""Rows that are set aside: the rules that a catalog may change, judged by the column when a segment is decoded.

Enters: usage events of one segment and the meters' rules of now. Leaves: those that pass, and a dead letter for each of
the others, which names the first rule that it breaks and holds the whole row, to be corrected and replayed.
Refuses: to stop. No row keeps the rows around it from the lake, not even one whose quantity no sum can hold.
"""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from metering.clock import iso_utc
from metering.codes import is_named
from metering.computed import compute_quantities
from metering.events import EVENT_TIME_MAX_US, EVENT_TIME_MIN_US, dead_letter_schema
from metering.narrow import QUANTITY, has_negative, is_narrow, plain_quantities, with_plain_quantities
from metering.numbers import trimmed
from metering.totals import SUM_LIMIT, decimals_of, grouped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from metering.meters import MeterRule

    Rules = Mapping[str, MeterRule] | None


def apply_rules(table: pa.Table, rules: Rules) -> tuple[pa.Table, pa.Table]:
    """Return (usage events, dead letters) of a table of USAGE_EVENT under the meters' rules of now.

    No catalog applied: every meter is known and every quantity must be at least zero.
    """
    table, failed = compute_quantities(table, rules)
    refusals = list(_refusals(table, rules))
    if failed is not None:
        refusals.append(("bad_expression", pa.chunked_array([failed])))
    if not refusals:
        return table, no_dead_letters()
    none = pa.scalar(None, pa.string())
    # The first rule that a row breaks is the one that is named.
    reasons = pc.coalesce(*(pc.if_else(breaks, reason, none) for reason, breaks in refusals))
    is_bad = pc.is_valid(reasons)
    return table.filter(pc.invert(is_bad)), refuse(table.filter(is_bad), reasons.filter(is_bad))


@functools.cache
def no_dead_letters() -> pa.Table:
    """Return DEAD_LETTER without rows: what nearly every segment has."""
    return dead_letter_schema().empty_table()


def _refusals(table: pa.Table, rules: Rules) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """Yield, in the order in which they count, the rules that some row breaks, and which rows do."""
    meters = table["meter"]
    if rules is not None:
        is_unknown = pc.invert(is_named(meters, sorted(rules)))
        if pc.any(is_unknown).as_py():
            yield "unknown_meter", is_unknown
    if has_negative(table["quantity"]):
        is_negative = pc.less(plain_quantities(table["quantity"]), pa.scalar(0, QUANTITY))
        allowed = sorted(name for name, rule in (rules or {}).items() if rule.negative_allowed)
        is_refused = pc.and_(is_negative, pc.invert(is_named(meters, allowed)))
        if pc.any(is_refused).as_py():
            yield "negative_quantity", is_refused
    times = table["event_time"].cast(pa.int64())
    ends = pc.min_max(times).as_py()
    if table.num_rows and not EVENT_TIME_MIN_US <= ends["min"] <= ends["max"] < EVENT_TIME_MAX_US:
        yield "bad_event_time", pc.or_(pc.less(times, EVENT_TIME_MIN_US), pc.greater_equal(times, EVENT_TIME_MAX_US))


_DETAILS = {
    "unknown_meter": "the catalog that is applied has no meter {meter!r}; add it and replay",
    "negative_quantity": "quantity {quantity} is negative and meter {meter!r} does not say negative_allowed: true",
    "bad_expression": "the expression of meter {meter!r} has no answer for the attributes {attributes}; correct them and replay",
    "bad_event_time": "event_time {event_time} is not in 1970 to 2199; correct it and replay",
    "quantity_too_large": "quantity {quantity} leaves no room for the sum of its tenant, meter and day in 38 digits;"
    " correct it and replay",
}


def refuse(table: pa.Table, reasons: pa.ChunkedArray) -> pa.Table:
    """Return rows of USAGE_EVENT as dead letters, each with its reason and itself as canonical JSON, to be replayed."""
    letters = []
    for event, reason in zip(with_plain_quantities(table).to_pylist(), reasons.to_pylist(), strict=True):
        original = {
            "tenant_id": event["tenant_id"],
            "meter": event["meter"],
            "quantity": trimmed(event["quantity"]),
            "event_time": iso_utc(event["event_time"]),
            "recorded_at": iso_utc(event["recorded_at"]),
            "idempotency_key": event["idempotency_key"],
            "attributes": event["attributes"],
        }
        names = ("producer_id", "segment", "row", "recorded_at", "tenant_id", "meter", "quantity", "event_time")
        letters.append(
            {name: event[name] for name in names}
            | {
                "event_date": event["event_time"].date(),
                "reason": reason,
                "detail": _DETAILS[reason].format_map(event),
                "original": json.dumps(original, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(),
            }
        )
    return pa.Table.from_pylist(letters, schema=dead_letter_schema())


def refuse_wide_sums(events: pa.Table, dead_letters: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return both, with the rows as dead letters that push a control total of their segment beyond 38 digits.

    Where a sum is too wide, those of its rows are refused that are at least as large as the largest sum divided by its
    rows: what is left always fits, whatever the order of the rows. Such a letter adds its row and no quantity.
    """
    if is_narrow(events["quantity"]) and is_narrow(dead_letters["quantity"]):
        return events, dead_letters
    found = grouped(events, dead_letters)
    is_wide = [total is not None and abs(total) >= SUM_LIMIT for total in found.sums]
    if not any(is_wide):
        return events, dead_letters
    # A sum that fits refuses nothing: no quantity is as large as the largest sum.
    largest = [-(-SUM_LIMIT // rows) if wide else SUM_LIMIT - 1 for wide, rows in zip(is_wide, found.rows, strict=True)]
    limits = decimals_of(largest).take(pa.array(found.group_of))
    of_both = [plain_quantities(table["quantity"]) for table in (events, dead_letters)]
    quantities = pa.chunked_array([chunk for column in of_both for chunk in column.chunks], QUANTITY)
    is_wide_group = pa.array(np.array(is_wide)[found.group_of])
    is_refused = pc.and_(is_wide_group, pc.fill_null(pc.greater_equal(pc.abs(quantities), limits), False))
    of_events, of_letters = is_refused.slice(0, events.num_rows), is_refused.slice(events.num_rows)
    too_large = events.filter(of_events)
    refused = refuse(too_large, pa.chunked_array([pa.repeat("quantity_too_large", too_large.num_rows)]))
    letters = pa.concat_tables([dead_letters, refused])
    is_unsaid = pa.chunked_array([*of_letters.chunks, pa.repeat(True, refused.num_rows)], pa.bool_())
    place = letters.column_names.index("quantity")
    unsaid = pc.if_else(is_unsaid, pa.scalar(None, QUANTITY), letters["quantity"])
    letters = letters.set_column(place, letters.schema.field("quantity"), unsaid)
    return events.filter(pc.invert(of_events)), letters.sort_by("row")
