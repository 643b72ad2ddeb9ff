"""A batch of any shape is stored narrowly and comes back as the rows that went in."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.decode import decode_segment
from metering.errors import BadEvent, JournalDamaged, UnknownMeter
from metering.events import check_quantity, encode_attributes, usage_event_schema
from metering.journal_format import Trailer
from metering.meters import MeterRule
from metering.segments import StoredSegment
from metering.tables import encode_batch

START = datetime(2026, 10, 1, tzinfo=UTC)
INSTANT = pa.timestamp("us", tz="UTC")
KNOWN = {"api": MeterRule("api")}
CODES = pa.dictionary(pa.int8(), pa.string())


def exact(nano: int) -> Decimal:
    with localcontext(prec=60):
        return Decimal(nano).scaleb(-9)


names = st.sampled_from(["acme", "b", "e\u0301", "\u00e9", "a/b"])
quantity_columns = st.sampled_from(
    [
        (pa.int64(), st.integers(0, 2**63 - 1)),
        (pa.int16(), st.integers(0, 2**15 - 1)),
        (pa.uint64(), st.integers(0, 2**64 - 1)),
        (pa.decimal128(38, 9), st.integers(0, 10**38 - 1).map(exact)),
        (pa.decimal128(20, 2), st.integers(0, 10**20 - 1).map(lambda cents: Decimal(cents).scaleb(-2))),
        (pa.string(), st.integers(0, 10**29 - 1).map(str)),
    ]
)


@st.composite
def batches(draw: st.DrawFn) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Draw a table as callers make them, in chunks, plain or with dictionaries, and its rows as they are meant."""
    kind, quantities = draw(quantity_columns)
    row = st.fixed_dictionaries(
        {
            "tenant_id": names,
            "meter": st.sampled_from(["api", "tokens"]),
            "quantity": quantities,
            "event_time": st.integers(0, 10**12).map(lambda us: START + timedelta(microseconds=us)),
            "idempotency_key": st.none() | st.text("abc", min_size=1, max_size=3),
            "model": st.none() | names,
            "size": st.none() | st.integers(0, 2),
        }
    )
    rows = draw(st.lists(row, min_size=1, max_size=12))
    text = draw(st.sampled_from([pa.string(), CODES, pa.large_string()]))
    types = {"tenant_id": text, "meter": pa.string(), "quantity": kind, "event_time": INSTANT}
    types |= {"idempotency_key": pa.string(), "model": text, "size": pa.int64()}
    cut = draw(st.integers(0, len(rows)))
    columns = {
        name: pa.chunked_array([pa.array([one[name] for one in part], of) for part in (rows[:cut], rows[cut:])], of)
        for name, of in types.items()
    }
    return pa.table(columns), rows


def decoded(body: memoryview, rows: int) -> pa.Table:
    trailer = Trailer(
        producer_id="p", segment=7, kind="batch", created_at=1, sealed_at=1, rows=rows, rows_before=0, dropped=0,
        body_bytes=len(body), sha256="", previous_sha256=None, holes=(),
    )  # fmt: skip
    batch = decode_segment(StoredSegment(Path("x"), trailer, bytearray(body)), None)
    assert batch.dead_letters.num_rows == 0 or set(batch.dead_letters["reason"].to_pylist()) == {"quantity_too_large"}
    return batch.events


def meant(row: dict[str, Any], place: int) -> dict[str, Any]:
    return {
        "tenant_id": unicodedata.normalize("NFC", row["tenant_id"]),
        "meter": row["meter"],
        "quantity": check_quantity(row["quantity"]),
        "event_time": row["event_time"],
        "recorded_at": START,
        "producer_id": "p",
        "segment": 7,
        "row": place,
        "idempotency_key": row["idempotency_key"],
        "attributes": encode_attributes({"model": row["model"], "size": row["size"]}),
        "correction": None,
    }


@settings(deadline=None)
@given(batches())
def test_what_is_read_is_what_was_meant(drawn: tuple[pa.Table, list[dict[str, Any]]]) -> None:
    table, rows = drawn
    count, body = encode_batch(table, rules=None, recorded_at=int(START.timestamp()) * 10**6)
    events = decoded(body, count)

    expected = [meant(row, place) for place, row in enumerate(rows)]
    kept = set(events["row"].to_pylist())
    assert events.to_pylist() == [row for row in expected if row["row"] in kept]
    assert count == len(rows)
    assert events.schema.names == usage_event_schema().names


def plain_table(**columns: pa.Array) -> pa.Table:
    given_columns = {
        "tenant_id": pa.array(["a", "b"]),
        "meter": pa.array(["api", "api"]),
        "quantity": pa.array([1, 2], pa.int64()),
        "event_time": pa.array([START, START], INSTANT),
    }
    return pa.table(given_columns | columns)


def test_a_dictionary_that_names_more_than_its_rows_is_no_reason_to_refuse() -> None:
    meters = pa.DictionaryArray.from_arrays(pa.array([1, 1], pa.int8()), pa.array(["unknown\n", "api", None]))
    rows, body = encode_batch(plain_table(meter=meters), rules=KNOWN, recorded_at=0)
    assert decoded(body, rows)["meter"].to_pylist() == ["api", "api"]


@pytest.mark.parametrize("kind", [pa.string(), CODES])
def test_a_bad_name_is_found_in_either_form(kind: pa.DataType) -> None:
    with pytest.raises(BadEvent) as refused:
        encode_batch(plain_table(tenant_id=pa.array(["a", "b\n"], kind)), rules=None, recorded_at=0)
    assert refused.value.rows == [1]
    with pytest.raises(UnknownMeter):
        encode_batch(plain_table(meter=pa.array(["api", "b"], kind)), rules=KNOWN, recorded_at=0)
    with pytest.raises(BadEvent) as refused:
        encode_batch(plain_table(meter=pa.array(["api", None], kind)), rules=None, recorded_at=0)
    assert refused.value.rows == [1]


def test_a_batch_with_plain_columns_is_read_as_well(tmp_path: Path) -> None:
    """What an earlier release left in a journal: every column in its own type."""
    schema = usage_event_schema()
    own = ["tenant_id", "meter", "quantity", "event_time", "idempotency_key", "attributes", "recorded_at"]
    row = {"tenant_id": "a", "meter": "api", "quantity": Decimal("0.5"), "event_time": START, "recorded_at": START}
    table = pa.Table.from_pylist([row, row], schema=pa.schema([schema.field(name) for name in own]))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    events = decoded(memoryview(sink.getvalue()), 2)
    assert events.select(own).to_pylist() == table.to_pylist()


@pytest.mark.parametrize("name", ["tenant_id", "quantity"])
def test_a_batch_with_a_row_of_nobody_is_damaged(name: str) -> None:
    """An earlier release took null in a dictionary for a name. One such row had kept all others from the lake."""
    nobody = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int8()), pa.array(["a", None]))
    none = nobody if name == "tenant_id" else pa.array([1, None])
    table = plain_table(recorded_at=pa.array([START, START], INSTANT), **{name: none})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    with pytest.raises(JournalDamaged):
        decoded(memoryview(sink.getvalue()), 2)


def test_a_batch_takes_no_more_room_than_its_values_need() -> None:
    """2 bytes per event instead of 104: what is not written is not hashed, synced, read or copied."""
    count = 10_000
    table = plain_table().take(pa.array([0, 1] * (count // 2)))
    _, body = encode_batch(table, rules=None, recorded_at=0)
    assert len(body) < 2 * count + 3000


def test_instants_near_each_other_are_stored_as_their_distance_from_the_first() -> None:
    times = [START + timedelta(microseconds=place * 100_000) for place in (5, 0, 20_000)]
    table = plain_table().take(pa.array([0, 0, 0])).set_column(3, "event_time", pa.array(times, INSTANT))
    _, body = encode_batch(table, rules=None, recorded_at=0)
    assert pa.ipc.open_stream(body).schema.field("event_time").type == pa.int32()
    assert decoded(body, 3)["event_time"].to_pylist() == times
    far = table.set_column(3, "event_time", pa.array([*times[:2], START + timedelta(days=1)], INSTANT))
    _, body = encode_batch(far, rules=None, recorded_at=0)
    assert pa.ipc.open_stream(body).schema.field("event_time").type == INSTANT
    assert decoded(body, 3)["event_time"].to_pylist() == far["event_time"].to_pylist()


def test_a_batch_of_the_first_format_is_read_as_well() -> None:
    """Codes of 32 bits, whole units as int64, others as decimal64, instants as they are, what is the same once."""
    codes = pa.array(["a", "b"]).dictionary_encode()
    same = pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array([START], INSTANT))
    for quantities in (pa.array([1, 10**10], pa.int64()), pa.array([Decimal("0.5"), Decimal(7)], pa.decimal64(18, 9))):
        table = pa.table(
            {"tenant_id": codes, "meter": codes, "quantity": quantities, "event_time": pa.array([START] * 2, INSTANT)}
            | {"recorded_at": same}
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        events = decoded(memoryview(sink.getvalue()), 2)
        assert events["quantity"].to_pylist() == quantities.to_pylist()
        assert events["recorded_at"].to_pylist() == [START, START]
        assert events["tenant_id"].to_pylist() == ["a", "b"]
