"""Narrow columns hold what plain ones hold: quantities, codes, texts; alone, joined, and through the lake."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metering.codes import concat, concat_texts, one_text
from metering.durable import HashedFile
from metering.lake import Lake
from metering.lake_rows import encode, places_in_order
from metering.narrow import (
    NANO_64,
    QUANTITY,
    QUANTITY_TYPES,
    WHOLE_32,
    WHOLE_64,
    common_type,
    has_negative,
    is_narrow,
    narrowest,
    plain_quantities,
    words,
)
from metering.recorder import Recorder

START = datetime(2026, 10, 1, tzinfo=UTC)
# What each type holds at its ends.
ENDS = {WHOLE_32: (10**9 - 1, 0), WHOLE_64: (10**18 - 1, 0), NANO_64: (10**18 - 1, 9), QUANTITY: (10**38 - 1, 9)}

kinds = st.sampled_from(list(ENDS))


def decimals(kind: pa.DataType) -> st.SearchStrategy[Decimal]:
    end, places = ENDS[kind]

    def scaled(number: int) -> Decimal:
        with localcontext(prec=60):
            return Decimal(number).scaleb(-places)

    return st.one_of(st.integers(-3, 3), st.sampled_from([-end, end]), st.integers(-end, end)).map(scaled)


columns_of_quantities = kinds.flatmap(
    lambda kind: st.lists(st.lists(decimals(kind), max_size=4), min_size=1, max_size=3).map(
        lambda chunks: pa.chunked_array([pa.array(chunk, kind) for chunk in chunks], kind)
    )
)


@settings(deadline=None)
@given(columns_of_quantities, st.integers(0, 3))
def test_a_narrow_quantity_is_the_plain_one(column: pa.ChunkedArray, start: int) -> None:
    part = column.slice(start)
    plain = plain_quantities(part)
    numbers = part.to_pylist()
    assert plain.type == QUANTITY
    assert plain.to_pylist() == numbers
    assert has_negative(part) == any(number < 0 for number in numbers)
    fits = all(abs(number) < 2**63 / Decimal(10**9) for number in numbers)
    assert is_narrow(part) == (column.type in QUANTITY_TYPES or fits)


@settings(deadline=None)
@given(columns_of_quantities, columns_of_quantities)
def test_columns_of_different_widths_are_joined_without_a_change(one: pa.ChunkedArray, other: pa.ChunkedArray) -> None:
    joined = concat([pa.table({"quantity": one}), pa.table({"quantity": other})])["quantity"]
    assert joined.type == common_type([one.type, other.type])
    assert joined.to_pylist() == one.to_pylist() + other.to_pylist()


@settings(deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5))
@example([127]).via("the last that 8 bits hold")
@example([-128, 127]).via("both ends of 8 bits")
@example([128]).via("the first that they do not")
def test_the_narrowest_integers_hold_their_numbers_and_no_narrower_ones_would(numbers: list[int]) -> None:
    low, high = min(numbers), max(numbers)
    narrow = narrowest(np.array(numbers, np.int64), low, high)
    assert narrow.tolist() == numbers
    half = 2 ** (narrow.dtype.itemsize * 4 - 1)
    assert narrow.dtype == np.int8 or low < -half or high >= half


texts = st.one_of(st.just("api"), st.sampled_from(["api", "ap", "apiapi", "é", ""]), st.none())


@settings(deadline=None)
@given(st.lists(st.lists(texts, max_size=6), min_size=1, max_size=3), st.integers(0, 4))
@example([["apiapi", "api", "apiapi"]], 0).via("as many bytes as three of one length")
@example([["abab", "abab"], ["abab"]], 0).via("a text that repeats within itself")
def test_one_text_is_said_only_where_every_row_has_it(chunks: list[list[str | None]], start: int) -> None:
    column = pa.chunked_array([pa.array(chunk, pa.string()) for chunk in chunks], pa.string()).slice(start)
    rows = column.to_pylist()
    is_one = len(set(rows)) == 1 and bool(rows[0])
    assert one_text(column) == (rows[0] if is_one else None)


def test_one_text_is_looked_for_in_every_row_of_a_long_column() -> None:
    rows = ["tokens"] * 200_000
    assert one_text(pa.array(rows)) == "tokens"
    for place in (0, 70_000, 199_999):
        assert one_text(pa.array([*rows[:place], "tokenz", *rows[place + 1 :]])) is None


def test_codes_of_eight_bits_grow_where_the_texts_of_two_columns_do_not_fit() -> None:
    names = [f"tenant-{number}" for number in range(200)]
    parts = [
        pa.chunked_array([pa.array(some).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string()))])
        for some in (names[:100], names[100:], names[50:150])
    ]
    assert concat_texts(parts).to_pylist() == [*names, *names[50:150]]
    assert concat_texts([parts[0], parts[0]]).type.index_type == pa.int8()


def test_batches_of_any_width_and_rows_go_to_the_lake_together(tmp_path: Path) -> None:
    """Two hundred tenants in codes of eight bits, quantities in 32, 64 and 128 bits, one commit."""
    instant = pa.timestamp("us", tz="UTC")
    quantities: list[tuple[pa.DataType, list[Decimal | int]]] = [
        (pa.int64(), list(range(100))),
        (pa.int64(), [10**12 + number for number in range(100)]),
        (pa.decimal128(38, 9), [Decimal(number) / 8 for number in range(100)]),
        (pa.decimal128(38, 9), [Decimal(10**28) + number for number in range(100)]),
        (pa.uint64(), [2**63 + number for number in range(100)]),
    ]
    expected = []
    with Recorder(tmp_path, ship="none", seal_interval_s=3600.0) as usage:
        for batch, (kind, numbers) in enumerate(quantities):
            names = [f"tenant-{batch * 60 + row}" for row in range(100)]
            times = [START + timedelta(microseconds=row * 10 ** (batch + 3)) for row in range(100)]
            table = {"tenant_id": names, "meter": ["api"] * 100, "quantity": pa.array(numbers, kind)}
            usage.record_batch(pa.table(table | {"event_time": pa.array(times, instant)}))
            expected += [
                (name, Decimal(number), time) for name, number, time in zip(names, numbers, times, strict=True)
            ]
        usage.record("api", tenant="zz", quantity=Decimal("0.5"), event_time=START)
        usage.record("api", tenant="zz", quantity=7, event_time=START)
        expected += [("zz", Decimal("0.5"), START), ("zz", Decimal(7), START)]
    with Recorder(tmp_path, ship="none") as usage:
        assert usage.ship_now().rows == len(expected)

    lake = Lake(tmp_path / "lake")
    stored = lake._events.read(lake.data_files())
    rows = zip(*(stored[name].to_pylist() for name in ("tenant_id", "quantity", "event_time")), strict=True)
    assert sorted(rows) == sorted(expected)
    assert {row["quantity"] for one in lake.segments()["totals"].to_pylist() for row in one} >= {Decimal("7.5")}


@pytest.mark.parametrize("is_settled", [True, False])
def test_a_hashed_file_is_whole_under_its_name_or_not_there(tmp_path: Path, is_settled: bool) -> None:
    pieces = [b"a" * 10, b"", b"b" * 3_000_000]
    with HashedFile(tmp_path, ".parquet") as file:
        for piece in pieces:
            file.write(piece)
        assert file.size == sum(map(len, pieces))
        assert file.sha256() == hashlib.sha256(b"".join(pieces)).hexdigest()
        if is_settled:
            file.settle(tmp_path / "whole")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == (
        [("whole", b"".join(pieces))] if is_settled else []
    )


@pytest.mark.parametrize(("tenants", "span_us"), [(300, 5000), (3, 10**12), (5000, 2**40), (1, 4097)])
def test_many_rows_are_ordered_by_counting(tenants: int, span_us: int) -> None:
    """Beyond a thousand rows Arrow counts values instead of comparing them; equals stay as they came."""
    chance = np.random.default_rng(tenants)
    names = pa.array([f"tenant-{number:04}" for number in chance.integers(0, tenants, 3000)])
    times = chance.integers(0, span_us, 3000)
    table = pa.table({"tenant_id": names, "event_time": pa.array(times), "row": pa.array(range(3000))})
    rows = encode(table, ("tenant_id",))
    places = places_in_order(rows, ("tenant_id", "event_time"))
    assert places is not None
    found = rows.take(pa.array(places)).to_pylist()
    assert found == sorted(table.to_pylist(), key=lambda row: (row["tenant_id"], row["event_time"], row["row"]))


@pytest.mark.parametrize("kind", list(ENDS))
def test_a_null_among_quantities_of_any_width_is_nought(kind: pa.DataType) -> None:
    column = pa.array([Decimal(7), None, Decimal(-1), Decimal(2)], kind)[1:]
    held = words(column)
    assert held.ndim == (2 if kind == QUANTITY else 1)
    low = held[:, 0] if held.ndim == 2 else held
    unit = 10**kind.scale
    assert low.tolist() == [0, -unit, 2 * unit]
