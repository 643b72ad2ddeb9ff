"""Generated rows and bytes: the column checks agree with the scalar rules, the two CSV readers with each other."""

from __future__ import annotations

import csv
import io
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.batch import SegmentBatch
from metering.errors import BadEvent, BadEventFile
from metering.event_file_formats import CsvFile, _raw_rows
from metering.event_files import read_event_file
from metering.event_rows import RowsAt, _instants, parse_event_time, split_rows
from metering.events import (
    check_event_time,
    check_key,
    check_name,
    check_quantity,
    encode_attributes,
)
from metering.meters import MeterRule

RULES = {"tokens": MeterRule("tokens"), "crédits": MeterRule("crédits", negative_allowed=True)}
AT = RowsAt("file-1", 1, 1_790_000_000_000_000)
COLUMNS = ("tenant_id", "meter", "quantity", "event_time", "idempotency_key", "model", "zone")

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
names = st.sampled_from(["acme", "../x", "a/./b", "é" * 64, "é" * 65, "e\u0301", " a", "__HIVE_DEFAULT_PARTITION__"])
meters = st.sampled_from(["tokens", "crédits", "cre\u0301dits", "typo", "", "to\nkens"])
digits = st.text("0123456789", min_size=1, max_size=31) | st.text("019", min_size=1, max_size=2)
quantities = st.one_of(
    st.builds(lambda sign, whole, rest: sign + whole + rest, st.sampled_from(["", "-", "+"]), digits, st.just("")),
    st.builds(lambda sign, whole, rest: f"{sign}{whole}.{rest}", st.sampled_from(["", "-"]), digits, digits),
    st.sampled_from(["NaN", "1e5", "1_000", "", " 1", "1\n", "-0", "0.000000000", "\u0661", "Infinity", ".5", "1."]),
)
times = st.one_of(
    st.datetimes(datetime(1969, 12, 30), datetime(2200, 1, 2)).map(lambda time: time.isoformat()),  # noqa: DTZ001
    st.builds(
        lambda day, clock, fraction, offset: f"{day}{clock}{fraction}{offset}",
        st.sampled_from(
            ["2026-10-01", "2024-02-29", "2026-02-29", "2026-13-01", "2026-04-31", "0000-01-01", "1970-01-01"]
        ),
        st.sampled_from(["T00:00:00", " 23:59:59", "T24:00:00", "T12:60:00", "T12:00", "", "T23:59:60"]),
        st.sampled_from(["", ".1", ".123456", ".1234567", ".999999999", ".", ",5", ".1234567890"]),
        st.sampled_from(["", "Z", "z", "+00", "+02:00", "-0530", "+23:59", "+24:00", " Z", "-00:01"]),
    ),
)
GOOD_ROW = ("acme", "tokens", "1", "2026-10-01T00:00:00Z", "", "", "")
CELLS = (
    names | any_text,
    meters,
    quantities,
    times,
    st.sampled_from(["k", "k" * 128, "k" * 129, "é" * 65, "a\x7fb", "a\x85b"]) | any_text,
    st.sampled_from(["gpt", "m" * 512, "m" * 513, "a\tb", 'quo"te', "back\\slash", "e\u0301"]) | any_text,
    any_text,
)


@st.composite
def rows(draw: st.DrawFn) -> tuple[str, ...]:
    """Change at most three cells of a good row: were each cell drawn anew, hardly a row would pass, or fail by one."""
    row = list(GOOD_ROW)
    for column in draw(st.lists(st.integers(0, len(CELLS) - 1), max_size=3)):
        row[column] = draw(CELLS[column])
    return tuple(row)


def judged(row: tuple[str, ...]) -> object:
    """Return what the scalar rules make of a row: the event's values, or the first reason."""
    tenant, meter, quantity, time, key, model, zone = row
    try:
        tenant = check_name(tenant, "tenant")
        meter = check_name(meter, "meter")
        if meter not in RULES:
            return "unknown_meter"
        number = check_quantity(quantity, negative_allowed=RULES[meter].negative_allowed)
        microseconds = parse_event_time(time)
        if key:
            check_key(key)
        attributes = encode_attributes({"model": model or None, "zone": zone or None})
    except BadEvent as error:
        return error.reason
    return tenant, meter, number, microseconds, key or None, attributes


# Few rows: one day that does not exist sends all rows of a chunk to the scalar rule.
@given(st.lists(rows(), min_size=1, max_size=4))
@settings(max_examples=600, deadline=None)
def test_column_checks_agree_with_the_scalar_rules(table_rows: list[tuple[str, ...]]) -> None:
    columns = [pa.array(column, pa.string()) for column in zip(*table_rows, strict=True)]
    raw = _raw_rows(pa.table(columns, names=list(COLUMNS)), empty_is_none=True)

    events, letters = split_rows(raw, RULES, AT)

    got: dict[int, object] = {letter["row"]: letter["reason"] for letter in letters.to_pylist()}
    instants = events["event_time"].cast(pa.int64()).to_pylist()
    for event, microseconds in zip(events.to_pylist(), instants, strict=True):
        values = (event["tenant_id"], event["meter"], event["quantity"], microseconds)
        got[event["row"]] = (*values, event["idempotency_key"], event["attributes"])
    assert got == dict(enumerate(map(judged, table_rows)))


real_times = st.builds(
    lambda moment, blank, digits, offset: f"{moment:%Y-%m-%d}{blank}{moment:%H:%M:%S}{digits}{offset}",
    st.datetimes(datetime(1969, 12, 31), datetime(2200, 1, 2)),  # noqa: DTZ001
    st.sampled_from("T "),
    st.just("") | st.text("0123456789", min_size=1, max_size=9).map(lambda digits: f".{digits}"),
    st.sampled_from(["", "Z", "+00", "-00", "+02:00", "-0530", "+23:59", "-23:59"]),
)


@given(st.lists(real_times, min_size=1, max_size=5))
@settings(max_examples=300, deadline=None)
def test_event_times_are_what_the_standard_library_reads(texts: list[str]) -> None:
    expected = []
    for text in texts:
        moment = datetime.fromisoformat(text)
        try:
            expected.append(check_event_time(moment if moment.tzinfo else moment.replace(tzinfo=UTC)))
        except BadEvent:
            expected.append(None)

    assert _instants(pa.array(texts)).cast(pa.int64()).to_pylist() == expected


plain_cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters='",\r\n\ufeff'), max_size=5)


@given(st.lists(st.tuples(*[plain_cells] * 4), max_size=8))
@settings(max_examples=200, deadline=None)
def test_both_csv_readers_see_the_same_cells(table_rows: list[tuple[str, ...]]) -> None:
    text = "tenant_id,meter,event_time,model\n" + "".join(",".join(row) + "\n" for row in table_rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "u.csv"
        path.write_bytes(text.encode())
        file = CsvFile(path)
        file.check()
        fast = [row for table in file._batches() for row in table.to_pylist()]
        strict = [row for table in file._strict_tables() for row in table.to_pylist()]

    assert fast == strict
    assert [tuple(row.values()) for row in strict] == table_rows


def imported(name: str, content: bytes) -> list[SegmentBatch] | None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            return list(read_event_file(path, RULES, AT.recorded_at, chunk_rows=3))
        except BadEventFile:
            return None


def quoted_csv() -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    for number in range(5):
        writer.writerow(["ac,me", "tokens", "1", "2026-10-01T00:00:00Z", f"k{number}", 'a "b"', ""])
    return text.getvalue().encode()


QUOTED = quoted_csv()
UNQUOTED = b"tenant_id,meter,quantity,event_time\n" + b"acme,tokens,1,2026-10-01T00:00:00Z\n" * 5
LINES = b'{"tenant_id":"acme","meter":"tokens","quantity":1,"event_time":"2026-10-01T00:00:00Z"}\n' * 5


@given(st.sampled_from([("u.csv", QUOTED), ("u.jsonl", LINES)]), st.integers(0, 600))
@settings(max_examples=200, deadline=None)
def test_a_file_cut_anywhere_is_refused_or_holds_whole_rows(file: tuple[str, bytes], length: int) -> None:
    name, content = file
    batches = imported(name, content[:length])

    if batches is not None:
        # Quoted fields and braces show where a row ends, so what is accepted are the first rows exactly.
        assert sum(batch.dead_letters.num_rows for batch in batches) == 0
        complete = content[:length].count(b"\n") - (name == "u.csv")
        assert sum(batch.rows for batch in batches) in {complete, complete + 1}


@given(
    st.sampled_from([("u.csv", QUOTED), ("u.csv", UNQUOTED), ("u.jsonl", LINES)]),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
)
@settings(max_examples=400, deadline=None)
def test_damaged_bytes_are_refused_or_every_row_is_accounted_for(
    file: tuple[str, bytes], damage: list[tuple[int, int]]
) -> None:
    name, content = file
    bad = bytearray(content)
    for position, value in damage:
        bad[position % len(bad)] = value

    for batch in imported(name, bytes(bad)) or []:
        numbers = [*batch.events["row"].to_pylist(), *batch.dead_letters["row"].to_pylist()]
        assert sorted(numbers) == list(range(batch.rows))
        assert sum(batch.totals["rows"].to_pylist()) == batch.rows
