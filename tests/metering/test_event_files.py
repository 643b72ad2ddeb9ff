"""Files of usage events: whole or refused; each row an event or a dead letter; the same file once."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metering.batch import SegmentBatch
from metering.clock import to_us
from metering.errors import BadEventFile, Terminal
from metering.event_files import read_event_file
from metering.lake import Lake
from metering.meters import MeterRule

NOW = datetime(2026, 10, 5, 12, tzinfo=UTC)
HEADER = "tenant_id,meter,quantity,event_time,idempotency_key,model\n"
GOOD = "acme,tokens,1.5,2026-10-01T00:00:00Z,k1,gpt\n"
RULES = {"tokens": MeterRule("tokens"), "credits": MeterRule("credits", negative_allowed=True)}


def batches(path: Path, chunk_rows: int = 1000) -> list[SegmentBatch]:
    return list(read_event_file(path, RULES, to_us(NOW), chunk_rows=chunk_rows))


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def json_row(**values: object) -> str:
    row = {"tenant_id": "acme", "meter": "tokens", "quantity": "1", "event_time": "2026-10-01T00:00:00Z"}
    return json.dumps({**row, **values}) + "\n"


def test_a_csv_becomes_usage_events(tmp_path: Path) -> None:
    path = written(tmp_path / "u.csv", HEADER + GOOD + "acme-eu,credits,-2,2026-10-01 02:00:00.123456789+02:00,,\n")

    (batch,) = batches(path)

    first, second = batch.events.to_pylist()
    assert first == {
        "tenant_id": "acme",
        "meter": "tokens",
        "quantity": Decimal("1.5"),
        "event_time": datetime(2026, 10, 1, tzinfo=UTC),
        "recorded_at": NOW,
        "producer_id": batch.producer_id,
        "segment": 1,
        "row": 0,
        "idempotency_key": "k1",
        "attributes": '{"model":"gpt"}',
        "correction": None,
    }
    # Nine digits are floored to six; an empty cell is no key and no attribute.
    assert second["event_time"] == datetime(2026, 10, 1, 0, 0, 0, 123456, tzinfo=UTC)
    assert (second["quantity"], second["idempotency_key"], second["attributes"]) == (Decimal(-2), None, None)
    assert batch.producer_id.startswith("file-")
    assert len(batch.producer_id) == 5 + 32
    assert (batch.kind, batch.rows, batch.dead_letters.num_rows) == ("file", 2, 0)


def test_csv_text_is_never_taken_for_a_number(tmp_path: Path) -> None:
    path = written(tmp_path / "u.csv", "\ufeff" + HEADER + "00123,tokens,007.50,2026-10-01 00:00:00+00,1e5,0123\n\n")

    (batch,) = batches(path)

    (row,) = batch.events.to_pylist()
    assert (row["tenant_id"], row["idempotency_key"], row["attributes"]) == ("00123", "1e5", '{"model":"0123"}')
    assert row["quantity"] == Decimal("7.5")


def test_without_a_quantity_column_each_row_counts_one(tmp_path: Path) -> None:
    csv = written(tmp_path / "u.csv", "tenant_id,meter,event_time\nacme,tokens,2026-10-01T00:00:00Z\n")
    lines = written(tmp_path / "u.jsonl", json_row().replace('"quantity": "1", ', ""))

    assert [batches(path)[0].events["quantity"].to_pylist() for path in (csv, lines)] == [[Decimal(1)]] * 2


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("../x,tokens,1,2026-10-01T00:00:00Z,,", "bad_tenant"),
        ('"ac\nme",tokens,1,2026-10-01T00:00:00Z,,', "bad_tenant"),
        ("ac\x7fme,tokens,1,2026-10-01T00:00:00Z,,", "bad_tenant"),
        (",tokens,1,2026-10-01T00:00:00Z,,", "bad_tenant"),
        ("é" * 65 + ",tokens,1,2026-10-01T00:00:00Z,,", "bad_tenant"),
        ("acme,,1,2026-10-01T00:00:00Z,,", "bad_meter"),
        ("acme,typo,1,2026-10-01T00:00:00Z,,", "unknown_meter"),
        ("acme,tokens,NaN,2026-10-01T00:00:00Z,,", "bad_quantity"),
        ("acme,tokens,1e40,2026-10-01T00:00:00Z,,", "bad_quantity"),
        ("acme,tokens,1_000,2026-10-01T00:00:00Z,,", "bad_quantity"),
        ("acme,tokens,,2026-10-01T00:00:00Z,,", "bad_quantity"),
        ("acme,tokens,1e5,2026-10-01T00:00:00Z,,", "bad_quantity"),
        ("acme,tokens,1.0000000001,2026-10-01T00:00:00Z,,", "bad_quantity"),
        ("acme,tokens,\uff11\uff12,2026-10-01T00:00:00Z,,", "bad_quantity"),
        ("acme,tokens,-1,2026-10-01T00:00:00Z,,", "negative_quantity"),
        ("acme,tokens,1,yesterday,,", "bad_event_time"),
        ("acme,tokens,1,2026-02-30T00:00:00Z,,", "bad_event_time"),
        ("acme,tokens,1,1969-12-31T23:59:59Z,,", "bad_event_time"),
        ("acme,tokens,1,2200-01-01T00:00:00Z,,", "bad_event_time"),
        ("acme,tokens,1,2026-10-01,,", "bad_event_time"),
        ("acme,tokens,1,2026-10-01T00:00:00Z," + "k" * 129 + ",", "bad_key"),
        ("acme,tokens,1,2026-10-01T00:00:00Z,,a\x01b", "bad_attributes"),
        ("acme,tokens,1,2026-10-01T00:00:00Z,," + "m" * 513, "bad_attributes"),
    ],
)
def test_a_bad_row_is_a_dead_letter_and_its_neighbours_are_events(tmp_path: Path, row: str, reason: str) -> None:
    path = written(tmp_path / "u.csv", HEADER + GOOD + row + "\n" + GOOD)

    (batch,) = batches(path)

    (letter,) = batch.dead_letters.to_pylist()
    assert (letter["reason"], letter["row"]) == (reason, 1)
    assert letter["detail"]
    assert json.loads(letter["original"])["tenant_id"] == row.split(",", 1)[0].strip('"')
    assert batch.events["row"].to_pylist() == [0, 2]
    assert batch.rows == 3
    assert sum(batch.totals["rows"].to_pylist()) == 3


def test_a_dead_letter_keeps_what_could_be_read_and_the_first_reason(tmp_path: Path) -> None:
    path = written(tmp_path / "u.csv", HEADER + "acme,typo,-3,2026-10-02T00:00:00Z,,\n" + "../x,tokens,x,never,,\n")

    known, unknown = batches(path)[0].dead_letters.to_pylist()

    assert (known["tenant_id"], known["meter"], known["quantity"]) == ("acme", "typo", Decimal(-3))
    assert (known["event_date"], known["reason"]) == (date(2026, 10, 2), "unknown_meter")
    assert (unknown["tenant_id"], unknown["meter"], unknown["quantity"]) == (None, "tokens", None)
    assert (unknown["event_time"], unknown["event_date"]) == (None, NOW.date())
    assert unknown["reason"] == "bad_tenant"
    assert "quantity 'x'" in unknown["detail"]


TORN = "ac,tokens,1,2026-10-01T00:00:00Z"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("u.csv", b"", "it is empty"),
        ("u.csv", b"\n\n", "it is empty"),
        ("u.csv", HEADER + GOOD + TORN, "line 3: it has 4 fields where the header has 6"),
        ("u.csv", HEADER + GOOD + TORN + ",,,,\n" + GOOD, "line 3: it has 8 fields"),
        ("u.csv", HEADER + GOOD + 'acme,tokens,1,2026-10-01T00:00:00Z,,"gp', "line 3: a quoted field is not ended"),
        ("u.csv", HEADER + 'acme,tokens,1,x,,"a\n' + GOOD + 'acme,tokens,1,x,,"b"\n', "line 2: a quoted field"),
        ("u.csv", HEADER.encode() + b"ac\xffme,tokens,1,2026-10-01T00:00:00Z,,\n", "line 2: it is not UTF-8"),
        ("u.csv", "tenant_id,meter,quantity\n", "line 1: it has no event_time"),
        ("u.csv", HEADER.replace(",", ";"), "separate the columns by commas"),
        ("u.csv", "tenant_id,meter,event_time,a,a\n", "column a is there twice"),
        ("u.csv", "tenant_id,meter,event_time,a b\n", "a column cannot be an attribute"),
        ("u.csv", "tenant_id,meter,event_time,\n", "a column cannot be an attribute"),
        ("u.csv", "tenant_id,meter,event_time,attributes\n", "use JSON lines"),
        ("u.jsonl", b"\n \n", "it holds no JSON object"),
        ("u.jsonl", json_row() + '{"tenant_id": "ac', "line 2: it is not one JSON object"),
        ("u.jsonl", json_row() + "[1]\n", "line 2: it is JSON, but no object"),
        ("u.jsonl", json_row() + '{"a": NaN}\n', "line 2: it is not one JSON object"),
        ("u.jsonl", json_row().encode() + b'{"a": "\xff"}\n', "line 2: it is not one JSON object"),
        ("u.jsonl", '{"tenant_id": "a", "meter": "b"}\n', "it has no event_time"),
        ("u.parquet", b"PAR1 half of a file", "it cannot be read as Parquet"),
        ("u.xlsx", b"PK", "its name ends in none of"),
        ("u.csv.gz", b"no archive", "its gzip archive is broken"),
        ("u.csv.gz", gzip.compress((HEADER + GOOD * 100).encode())[:-9], "its gzip archive is broken or cut short"),
        ("u.jsonl.gz", gzip.compress((json_row() * 100).encode())[:-9], "its gzip archive is broken or cut short"),
    ],
)
def test_a_file_that_is_not_whole_is_refused_with_its_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = written(tmp_path / name, content)

    with pytest.raises(BadEventFile) as caught:
        # No segment is asked for: the refusal comes before the first one could be applied.
        read_event_file(path, None, to_us(NOW))

    assert message in str(caught.value)
    assert "Nothing was imported" in str(caught.value)
    assert caught.value.details["path"] == str(path)
    assert isinstance(caught.value, Terminal)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadEventFile, match="no such file"):
        read_event_file(tmp_path / "u.csv", None, 0)
    with pytest.raises(BadEventFile, match="folder"):
        read_event_file(tmp_path, None, 0)


def test_damage_far_behind_the_first_chunk_is_found_before_the_first_segment(tmp_path: Path) -> None:
    path = written(tmp_path / "u.csv", HEADER + GOOD * 300_000 + TORN)

    with pytest.raises(BadEventFile, match="line 300002"):
        read_event_file(path, None, 0, chunk_rows=10)


def test_a_truncated_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "u.parquet"
    pq.write_table(pa.table({"tenant_id": ["a"], "meter": ["b"], "event_time": ["2026-10-01T00:00:00Z"]}), path)
    path.write_bytes(path.read_bytes()[:-30])

    with pytest.raises(BadEventFile, match="cannot be read as Parquet"):
        read_event_file(path, None, 0)


def test_a_parquet_file_with_damaged_names_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "u.parquet", model=pa.array(["a"]))
    path.write_bytes(path.read_bytes().replace(b"model", b"m\xffdel"))

    with pytest.raises(BadEventFile, match="cannot be read as Parquet"):
        read_event_file(path, None, 0)


def test_a_parquet_file_whose_counts_disagree_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "u.parquet", model=pa.array(["a"] * 50))
    content = path.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    # Thrift's compact zigzag of 50 rows is 0x64; each one in the footer in turn becomes 40 rows.
    places = [at for at in range(footer, len(content) - 8) if content[at] == 100]
    for at in places:
        path.write_bytes(content[:at] + bytes([80]) + content[at + 1 :])
        try:
            assert sum(batch.rows for batch in read_event_file(path, None, 0)) == 50
        except BadEventFile:
            continue


def test_a_csv_with_a_header_only_has_no_segments(tmp_path: Path) -> None:
    assert batches(written(tmp_path / "u.csv", HEADER)) == []


def test_json_numbers_keep_their_digits(tmp_path: Path) -> None:
    digits = "12345678901234567890123456789.123456789"
    lines = json_row(quantity=0).replace("0}", "0}") + json_row().replace('"quantity": "1"', f'"quantity": {digits}')
    lines += json_row().replace('"quantity": "1"', '"quantity": 0.1, "size": 1.10, "n": 5, "t": "5", "is_new": true')
    path = written(tmp_path / "u.jsonl", lines)

    (batch,) = batches(path)

    assert batch.events["quantity"].to_pylist() == [Decimal(0), Decimal(digits), Decimal("0.1")]
    assert batch.events["attributes"].to_pylist()[2] == '{"is_new":true,"n":5,"size":"1.10","t":"5"}'


def test_an_attributes_object_is_merged(tmp_path: Path) -> None:
    path = written(
        tmp_path / "u.ndjson",
        json_row(model="a", attributes={"zone": "eu"}) + json_row(attributes={}) + json_row(attributes=None),
    )

    assert batches(path)[0].events["attributes"].to_pylist() == ['{"model":"a","zone":"eu"}', None, None]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (json_row(tenant_id=5), "bad_tenant"),
        (json_row(meter=None), "bad_meter"),
        (json_row(quantity=True), "bad_quantity"),
        (json_row().replace('"quantity": "1"', '"quantity": 1e5'), "bad_quantity"),
        (json_row(quantity=None), "bad_quantity"),
        (json_row().replace('"quantity": "1"', '"x": "1"'), "bad_quantity"),
        (json_row(event_time=1790000000), "bad_event_time"),
        (json_row(idempotency_key=""), "bad_key"),
        (json_row(idempotency_key=7), "bad_key"),
        (json_row(attributes=[1]), "bad_attributes"),
        (json_row(model=[1]), "bad_attributes"),
        (json_row(model={"a": 1}), "bad_attributes"),
        (json_row(model="a", attributes={"model": "b"}), "bad_attributes"),
        (json_row(model="a").replace('"model"', '"a b"'), "bad_attributes"),
        (json_row(model=1).replace('"model": 1', '"model": 1e300'), "bad_attributes"),
        (json_row(a="x").replace('"a": "x"', '"quantity": "2"'), "bad_attributes"),
        (json_row(attributes="x").replace('"x"', "[" * 900 + "]" * 900), "bad_attributes"),
        (json_row(**{f"a{n}": "x" for n in range(17)}), "bad_attributes"),
    ],
)
def test_a_bad_json_row_is_a_dead_letter_with_its_line(tmp_path: Path, line: str, reason: str) -> None:
    path = written(tmp_path / "u.jsonl", json_row() + line + json_row())

    (batch,) = batches(path)

    (letter,) = batch.dead_letters.to_pylist()
    assert (letter["reason"], letter["row"], letter["original"]) == (reason, 1, line.strip().encode())
    assert batch.events.num_rows == 2


def parquet(path: Path, **columns: pa.Array) -> Path:
    count = len(next(iter(columns.values())))
    given = {"tenant_id": pa.array(["acme"] * count), "meter": pa.array(["tokens"] * count)}
    given["event_time"] = pa.array(["2026-10-01T00:00:00Z"] * count)
    pq.write_table(pa.table({**given, **columns}), path)
    return path


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [
        (pa.array([1, 2**62]), [Decimal(1), Decimal(2**62)]),
        (pa.array([2**64 - 1], pa.uint64()), [Decimal(2**64 - 1)]),
        (pa.array([Decimal("1.10")], pa.decimal128(5, 2)), [Decimal("1.10")]),
        (pa.array([Decimal("1.5")], pa.decimal128(38, 18)), [Decimal("1.5")]),
        (pa.array([Decimal("9")], pa.decimal256(70, 2)), [Decimal(9)]),
        (pa.array(["2.5"], pa.large_string()), [Decimal("2.5")]),
        (pa.array([Decimal("1.0000000001")], pa.decimal128(38, 10)), []),
        (pa.array([None], pa.int64()), []),
        (pa.array([-1]), []),
    ],
)
def test_parquet_quantities_are_exact(tmp_path: Path, quantity: pa.Array, expected: list[Decimal]) -> None:
    (batch,) = batches(parquet(tmp_path / "u.parquet", quantity=quantity))

    assert batch.events["quantity"].to_pylist() == expected
    assert batch.events.num_rows + batch.dead_letters.num_rows == len(quantity)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (pa.array([1_790_000_000], pa.timestamp("s")), 1_790_000_000_000_000),
        (pa.array([1_790_000_000_123], pa.timestamp("ms", tz="America/New_York")), 1_790_000_000_123_000),
        (pa.array([1_790_000_000_123_456_789], pa.timestamp("ns", tz="UTC")), 1_790_000_000_123_456),
        (pa.array([1_790_000_000_123_456], pa.timestamp("us")), 1_790_000_000_123_456),
        (pa.array([2**40], pa.timestamp("s")), None),
        (pa.array([-1], pa.timestamp("us", tz="UTC")), None),
        (pa.array([None], pa.timestamp("us", tz="UTC")), None),
    ],
)
def test_parquet_times_are_utc_microseconds(tmp_path: Path, times: pa.Array, expected: int | None) -> None:
    (batch,) = batches(parquet(tmp_path / "u.parquet", event_time=times))

    assert [to_us(time) for time in batch.events["event_time"].to_pylist()] == ([] if expected is None else [expected])
    assert batch.dead_letters["reason"].to_pylist() == (["bad_event_time"] if expected is None else [])


@pytest.mark.parametrize(
    ("column", "values", "hint"),
    [
        ("quantity", pa.array([0.1]), "a float is not exact"),
        ("model", pa.array([0.1]), "cast it to text"),
        ("event_time", pa.array([1]), "cast it to a timestamp"),
        ("tenant_id", pa.array([1]), "cast it to text"),
    ],
)
def test_parquet_columns_of_other_types_are_refused(tmp_path: Path, column: str, values: pa.Array, hint: str) -> None:
    with pytest.raises(BadEventFile, match=hint):
        read_event_file(parquet(tmp_path / "u.parquet", **{column: values}), None, 0)


def test_parquet_attributes_keep_their_types(tmp_path: Path) -> None:
    path = parquet(
        tmp_path / "u.pq",
        model=pa.array(["a", None]).dictionary_encode(),
        size=pa.array([Decimal("1.50"), None], pa.decimal128(9, 2)),
        n=pa.array([1, 2]),
        is_new=pa.array([True, None]),
    )

    assert batches(path)[0].events["attributes"].to_pylist() == [
        '{"is_new":true,"model":"a","n":1,"size":"1.50"}',
        '{"n":2}',
    ]


def test_segments_are_numbered_chained_and_cut_by_rows(tmp_path: Path) -> None:
    plain = written(tmp_path / "plain.csv", HEADER + GOOD * 25)
    quoted = written(tmp_path / "quoted.csv", HEADER + GOOD.replace("gpt", '"gpt"') * 25)
    lines = written(tmp_path / "u.jsonl", json_row(model="gpt") * 25)
    seen: list[int] = []

    for path in (plain, quoted, lines):
        parts = list(read_event_file(path, None, to_us(NOW), chunk_rows=10, progress=seen.append))
        assert [(part.segment, part.rows, part.rows_before) for part in parts] == [(1, 10, 0), (2, 10, 10), (3, 5, 20)]
        assert [part.previous_sha256 for part in parts] == [None, parts[0].sha256, parts[1].sha256]
        assert parts[1].events["row"].to_pylist() == list(range(10))
    assert seen == [10, 20, 25] * 3
    # The hash is of the cells: quotes around them change the file and its producer, not the rows.
    assert batches(plain)[0].sha256 == batches(quoted)[0].sha256


def test_zipped_files_hold_the_same_rows(tmp_path: Path) -> None:
    plain = written(tmp_path / "u.csv", HEADER + GOOD)
    packed = written(tmp_path / "u.csv.gz", gzip.compress(plain.read_bytes(), mtime=0))

    columns = ["tenant_id", "quantity", "event_time", "attributes"]
    assert batches(packed)[0].events.select(columns) == batches(plain)[0].events.select(columns)


def test_the_same_file_twice_adds_nothing_under_any_name(tmp_path: Path) -> None:
    path = written(tmp_path / "u.csv", HEADER + GOOD * 5 + "../x,tokens,1,2026-10-01T00:00:00Z,,\n")
    copy = written(tmp_path / "copy.csv", path.read_bytes())
    lake = Lake(tmp_path / "lake")

    first = [lake.append([batch]) for batch in read_event_file(path, RULES, to_us(NOW), chunk_rows=4)]
    second = [lake.append([batch]) for batch in read_event_file(copy, RULES, to_us(NOW) + 1, chunk_rows=4)]

    assert sum(one.rows for one in first) == 5
    assert sum(one.dead_letters for one in first) == 1
    assert sum(one.segments for one in second) == 0
    assert lake.segments()["rows_before"].to_pylist() == [0, 4]
    assert list(lake.cut().values()) == [2]


def test_an_import_that_was_cut_short_is_finished_by_the_next(tmp_path: Path) -> None:
    path = written(tmp_path / "u.csv", HEADER + GOOD * 10)
    lake = Lake(tmp_path / "lake")
    lake.append([next(read_event_file(path, RULES, to_us(NOW), chunk_rows=4))])

    again = [lake.append([batch]).rows for batch in read_event_file(path, RULES, to_us(NOW), chunk_rows=4)]

    assert again == [0, 4, 2]


def test_a_file_that_changes_between_the_two_readings_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "u.csv", HEADER + GOOD * 10)
    parts = read_event_file(path, RULES, to_us(NOW), chunk_rows=4)
    written(path, HEADER + GOOD * 11)

    with pytest.raises(BadEventFile, match="changed while it was read"):
        list(parts)
