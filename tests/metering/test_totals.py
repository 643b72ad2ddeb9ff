"""Control totals are exact, and no row can spoil those of the rows around it."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, localcontext
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.errors import MeteringError
from metering.events import check_quantity, dead_letter_schema, usage_event_schema
from metering.lake import Lake
from metering.narrow import QUANTITY_TYPES
from metering.recorder import Recorder
from metering.refusals import refuse_wide_sums
from metering.totals import SUM_LIMIT, control_totals

START = datetime(2026, 10, 1, tzinfo=UTC)
LARGEST = Decimal("9" * 29 + "." + "9" * 9)
Key = tuple[str | None, str | None, date]

# Whole units, so that narrow columns are tried as well; sums that leave 32, 62 and 64 bits; and what no sum can hold.
whole = st.one_of(st.integers(-5, 5), st.integers(-(10**9) + 1, 10**9 - 1), st.integers(-(10**18) + 1, 10**18 - 1))
units = st.one_of(
    st.integers(-5, 5),
    whole.map(lambda one: one * 10**9),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(10**38) + 1, 10**38 - 1),
)
some_rows = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.integers(-2, 2), units, st.booleans()), max_size=25
)


def number(nano: int) -> Decimal:
    with localcontext(prec=60):
        return Decimal(nano).scaleb(-9)


def nano(quantity: Decimal) -> int:
    with localcontext(prec=60):
        return int(quantity.scaleb(9))


def tables(rows: list[tuple[str, str, int, int, bool]]) -> tuple[pa.Table, pa.Table]:
    """Return usage events, and dead letters with one name or quantity missing here and there."""
    events, letters = [], []
    for place, (tenant, meter, day, units_of, is_letter) in enumerate(rows):
        instant = START + timedelta(days=day, microseconds=-1)
        row = {"recorded_at": START, "producer_id": "p", "segment": 1, "row": place, "event_time": instant}
        row |= {"tenant_id": tenant, "meter": meter, "quantity": number(units_of)}
        if not is_letter:
            events.append(row)
            continue
        row |= {"quantity": None if meter == "y" else row["quantity"], "tenant_id": None if day else tenant}
        letters.append(row | {"event_date": instant.date(), "reason": "bad_key", "detail": "", "original": b"{}"})
    return (
        pa.Table.from_pylist(events, schema=usage_event_schema()),
        pa.Table.from_pylist(letters, schema=dead_letter_schema()),
    )


def narrowed(events: pa.Table) -> pa.Table:
    """Return usage events with their quantities in the narrowest decimals that hold them."""
    for kind in QUANTITY_TYPES:
        try:
            narrow = events["quantity"].cast(kind)
        except pa.ArrowInvalid:
            continue
        return events.set_column(2, events.schema.field("quantity").with_type(kind), narrow)
    return events


def added_up(*parts: pa.Table) -> dict[Key, tuple[int, int | None]]:
    rows: dict[Key, int] = defaultdict(int)
    sums: dict[Key, int | None] = {}
    for row in (row for part in parts for row in part.to_pylist()):
        key = row["tenant_id"], row["meter"], row["event_time"].date()
        rows[key] += 1
        sums.setdefault(key, None)
        if row["quantity"] is not None:
            sums[key] = (sums[key] or 0) + nano(row["quantity"])
    return {key: (rows[key], sums[key]) for key in rows}


def as_dict(totals: pa.Table) -> dict[Key, tuple[int, int | None]]:
    return {
        (row["tenant_id"], row["meter"], row["event_date"]): (
            row["rows"],
            None if row["quantity"] is None else nano(row["quantity"]),
        )
        for row in totals.to_pylist()
    }


@settings(deadline=None)
@given(some_rows, st.booleans())
def test_totals_are_those_of_whole_numbers_and_no_row_is_lost(
    rows: list[tuple[str, str, int, int, bool]], is_coded: bool
) -> None:
    events, letters = tables(rows)
    before = added_up(events, letters)
    if is_coded:
        names = [pa.field(name, pa.dictionary(pa.int32(), pa.string())) for name in ("tenant_id", "meter")]
        events = events.cast(pa.schema([*names, *list(usage_event_schema())[2:]]))
        events = narrowed(events)
    events, letters = refuse_wide_sums(events, letters)
    totals = control_totals(events, letters)

    assert as_dict(totals) == added_up(events, letters)
    assert totals.num_rows == len(as_dict(totals))
    assert {key: count for key, (count, _) in before.items()} == {
        key: count for key, (count, _) in as_dict(totals).items()
    }
    assert letters["row"].to_pylist() == sorted(letters["row"].to_pylist())
    for key, (_, total) in before.items():
        if total is None or abs(total) < SUM_LIMIT:
            assert as_dict(totals)[key][1] == total


def test_a_sum_beyond_38_digits_is_refused_and_never_wrong() -> None:
    rows = [("a", "x", 0, 9 * 10**37, False)] * 2
    with pytest.raises(MeteringError, match="more than 38 digits"):
        control_totals(*tables(rows))


def test_the_largest_quantity_is_taken_and_two_of_them_do_not_stop_the_rest(tmp_path: Path) -> None:
    """Two rows of 9e28 wrapped to a negative total in 128 bits, without a word."""
    assert check_quantity(LARGEST) == LARGEST
    with Recorder(tmp_path, ship="none", seal_interval_s=3600.0) as usage:
        usage.record("api", tenant="poison", quantity=LARGEST, key="k1")
        usage.record("api", tenant="poison", quantity=3)
        usage.record("api", tenant="poison", quantity=LARGEST)
        usage.record("api", tenant="acme", quantity=LARGEST)
    with Recorder(tmp_path, ship="none") as usage:
        shipped = usage.ship_now()
    lake = Lake(tmp_path / "lake")
    letters = lake.dead_letters().to_pylist()

    assert (shipped.rows, shipped.dead_letters, shipped.quarantined) == (2, 2, ())
    assert [(letter["reason"], letter["quantity"]) for letter in letters] == [("quantity_too_large", None)] * 2
    assert json.loads(letters[0]["original"])["quantity"] == str(LARGEST)
    (totals,) = lake.segments()["totals"].to_pylist()
    assert [(one["tenant_id"], one["rows"], one["quantity"]) for one in totals] == [
        ("acme", 1, LARGEST),
        ("poison", 3, Decimal(3)),
    ]
