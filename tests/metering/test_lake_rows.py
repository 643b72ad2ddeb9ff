"""Encoding and ordering: the same rows as pyarrow's own sort gives, read back as the plain types of the schema."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering import lake_rows
from metering.events import usage_event_schema
from metering.lake_rows import SAMPLE_DISTINCT_MAX, SAMPLE_ROWS, encode, places_in_order, write_parquet

ORDER = ("tenant_id", "meter", "event_time", "producer_id", "segment", "row")
START = datetime(1970, 1, 1, tzinfo=UTC)

instants = st.one_of(st.integers(0, 3), st.integers(0, 10**6), st.integers(0, 230 * 365 * 86_400 * 10**6 // 100)).map(
    lambda us: START + timedelta(microseconds=us)
)
names = st.sampled_from(["a", "b", "B", "é", "zz", "a/b", "\U0001f600"])
event_rows = st.fixed_dictionaries(
    {
        "tenant_id": names,
        "meter": names,
        "quantity": st.integers(-(10**28), 10**28).map(lambda number: Decimal(number).scaleb(-1)),
        "event_time": instants,
        "recorded_at": instants,
        "producer_id": names,
        "segment": st.integers(0, 2**40),
        "row": st.integers(0, 2**31 - 1),
        "idempotency_key": st.none() | names,
        "attributes": st.none() | names,
        "correction": st.none() | names,
    }
)


def written(rows: pa.Table) -> pa.Table:
    sink, encoded = pa.BufferOutputStream(), encode(rows, ORDER)
    write_parquet(sink, encoded, places_in_order(encoded, ORDER), ORDER)
    return pq.read_table(pa.BufferReader(sink.getvalue()))


@settings(deadline=None)
@given(st.lists(event_rows, max_size=30), st.integers(0, 30))
def test_rows_are_read_back_in_the_order_of_a_plain_sort(rows: list[dict[str, object]], cut: int) -> None:
    schema = usage_event_schema()
    table = pa.concat_tables([pa.Table.from_pylist(part, schema=schema) for part in (rows[:cut], rows[cut:])])
    # Rows that are equal in the whole order may come either way in pyarrow; by their place they are told apart.
    place = pa.array(range(table.num_rows), pa.int64())
    expected = table.append_column("place", place).sort_by([(name, "ascending") for name in (*ORDER, "place")])

    found = written(table)

    assert found.schema.equals(schema)
    assert found.equals(expected.drop_columns("place").combine_chunks())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lake_rows, "ROWS_PER_GROUP", 4)
        patch.setattr(lake_rows, "NAMES_UNUSED_MAX", 0)
        assert written(table).equals(expected.drop_columns("place"))


def test_a_row_group_stores_the_names_that_it_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand tenants in every row group would make the file larger, and slow to read."""
    monkeypatch.setattr(lake_rows, "ROWS_PER_GROUP", 5000)
    tenants = [f"tenant-{number % 10_000:05}" for number in range(20_000)]
    row = {"meter": "calls", "quantity": Decimal(1), "event_time": START, "recorded_at": START, "producer_id": "p"}
    rows = [row | {"tenant_id": tenant, "segment": 1, "row": place} for place, tenant in enumerate(tenants)]
    sink, encoded = pa.BufferOutputStream(), encode(pa.Table.from_pylist(rows, schema=usage_event_schema()), ORDER)
    write_parquet(sink, encoded, places_in_order(encoded, ORDER), ORDER)

    content = pq.ParquetFile(pa.BufferReader(sink.getvalue()))
    assert content.read().column("tenant_id").to_pylist() == sorted(tenants)
    groups = [content.metadata.row_group(at).column(0) for at in range(content.metadata.num_row_groups)]
    assert len(groups) == 4
    # 2,500 names of 12 bytes and their lengths, 5,000 codes of 12 bits; all names would be 160,000 bytes.
    assert all(group.has_dictionary_page and group.total_uncompressed_size < 60_000 for group in groups)


@pytest.mark.parametrize("distinct", [3, SAMPLE_DISTINCT_MAX, SAMPLE_ROWS, 3 * SAMPLE_ROWS])
def test_many_different_texts_are_kept_as_well_as_few(distinct: int) -> None:
    count = 3 * SAMPLE_ROWS
    row = {
        "tenant_id": "acme", "meter": "tokens", "quantity": Decimal(1), "event_time": START, "recorded_at": START,
        "producer_id": "p", "segment": 1,
    }  # fmt: skip
    rows = [row | {"row": number, "attributes": f'{{"request":"{number % distinct}"}}'} for number in range(count)]
    table = pa.Table.from_pylist(rows, schema=usage_event_schema())

    assert written(table).equals(table)


@pytest.mark.parametrize(("distinct", "is_coded"), [(3000, True), (6000, True), (200_000, False)])
def test_quantities_of_which_there_are_few_are_codes_in_the_file(distinct: int, is_coded: bool) -> None:
    """Judged by rows from all over the group: the first tenant uses one quantity only."""
    count = 40_000
    chance = random.Random(distinct)
    numbers = [7 if place < SAMPLE_ROWS else chance.randrange(distinct) for place in range(count)]
    quantities = pa.array(numbers, pa.int64()).cast(pa.decimal128(38, 0)).cast(pa.decimal128(38, 9))
    same = {"tenant_id": "acme", "meter": "tokens", "event_time": START, "recorded_at": START, "producer_id": "p"}
    columns = {
        **{name: pa.repeat(pa.scalar(value), count) for name, value in same.items()},
        "quantity": quantities,
        "segment": pa.repeat(1, count),
        "row": pa.array(range(count)),
        **{name: pa.nulls(count) for name in ("idempotency_key", "attributes", "correction")},
    }
    schema = usage_event_schema()
    table = pa.table([columns[name] for name in schema.names], names=schema.names).cast(schema)
    sink, encoded = pa.BufferOutputStream(), encode(table, ORDER)
    write_parquet(sink, encoded, places_in_order(encoded, ORDER), ORDER)

    assert pq.read_table(pa.BufferReader(sink.getvalue())).equals(table)
    group = pq.ParquetFile(pa.BufferReader(sink.getvalue())).metadata.row_group(0)
    found = next(one for place in range(group.num_columns) if (one := group.column(place)).path_in_schema == "quantity")
    assert found.has_dictionary_page is is_coded
