"""Tables as files: whatever they hold comes back digit by digit, no text is ever run, the same table is the same bytes."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from typing import Any, BinaryIO, cast
from xml.etree import ElementTree as ET

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openpyxl import load_workbook

from billing_adapters.file_adapter.columns import Column, FileShape, arrow_schema
from billing_adapters.file_adapter.formats import FORMATS, original_text
from billing_adapters.file_adapter.workbook import CUT, TEXT_CHARACTERS_MAX, About, fits_a_cell
from metering.clock import iso_utc
from rating.iso4217 import minor_units
from tests.billing_adapters import workbooks

Row = dict[str, Any]
WIDE = Context(prec=76)
ABOUT = About("run-1", "October", datetime(2026, 11, 1, tzinfo=UTC), [])
SHAPE = FileShape(
    name="everything",
    grain="one row per row",
    columns=(
        Column("row", "integer", "its number"),
        Column("text", "text", "any text", nullable=True),
        Column("day", "date", "a day"),
        Column("at", "instant", "an instant"),
        Column("quantity", "quantity", "units"),
        Column("unit_price", "unit_price", "the price of one"),
        Column("exact_amount", "exact_amount", "unrounded"),
        Column("amount", "amount", "rounded"),
        Column("currency", "text", "its currency"),
    ),
    key=("row",),
    control_totals=(),
)
NASTY = (
    "=1+1", "+1", "-1", "@x", "\t=1", "<r><t>=1</t></r>", "<r></r>", "_x0041_", "http://a.example", "internal:A1",
    "mailto:a@b.example", " padded ", "two\nlines", "cr\rlf\r\n", "\r", '"quoted", and comma', "\u200fright", "'=1",
    "''", "{=1}", "1-2", "007", "12345678901234567890", "TRUE", "#N/A", "]]>", "<!--", "&amp;", "a\x01b",
    "=cmd|' /C calc'!A0", "\U0001f600",
)  # fmt: skip


def written(rows: list[Row], file_format: str, about: About = ABOUT) -> bytes:
    table = pa.Table.from_pylist(rows, schema=arrow_schema(SHAPE))
    file = io.BytesIO()
    FORMATS[file_format](SHAPE, table, cast("BinaryIO", file), about)
    return file.getvalue()


def read_back(content: bytes, file_format: str) -> list[Row]:
    """Return the rows of a file in the types that its columns declare, read by other code than wrote it."""
    if file_format == "xlsx":
        return workbooks.read_workbook(io.BytesIO(content), SHAPE)
    if file_format == "parquet":
        return list(pq.read_table(io.BytesIO(content)).to_pylist())
    if file_format == "jsonl":
        return [_typed(json.loads(line)) for line in content.splitlines()]
    rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    return [
        _typed({**row, **{name: original_text(row[name]) or None for name in ("text", "currency")}}) for row in rows
    ]


def _typed(row: Row) -> Row:
    decimals = {name: Decimal(row[name]) for name in ("quantity", "unit_price", "exact_amount", "amount")}
    at = datetime.fromisoformat(row["at"].replace("Z", "+00:00"))
    return {**row, **decimals, "row": int(row["row"]), "day": date.fromisoformat(row["day"]), "at": at}


def decimals(digits: int, places: int) -> st.SearchStrategy[Decimal]:
    short = st.builds(lambda units: Decimal(units).scaleb(-2), st.integers(-(10**9), 10**9))
    long = st.builds(lambda units: Decimal(units).scaleb(-places, WIDE), st.integers(-(10**digits) + 1, 10**digits - 1))
    return short | long


def amounts() -> st.SearchStrategy[tuple[Decimal, str]]:
    return st.builds(
        lambda units, currency: (Decimal(units).scaleb(-minor_units(currency), WIDE), currency),
        st.integers(-(10**20), 10**20) | st.integers(-(10**6), 10**6),
        st.sampled_from(["USD", "JPY", "KWD", "CLF"]),
    )


@st.composite
def tables(draw: st.DrawFn) -> list[Row]:
    # Excel's calendar begins in 1900 and its days are counted; its clock is good to the second.
    instants = st.integers(0, 7_000_000_000_000_000).map(
        lambda us: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
    )
    text = st.sampled_from(NASTY) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
    rows = []
    for number in range(draw(st.integers(0, 6))):
        at = draw(instants)
        amount, currency = draw(amounts())
        rows.append(
            {
                "row": number,
                "text": draw(st.none() | text),
                "day": draw(st.dates(date(1970, 1, 1), date(2199, 12, 31))),
                "at": at if draw(st.booleans()) else at.replace(microsecond=0),
                "quantity": draw(decimals(38, 9)),
                "unit_price": draw(decimals(24, 12)),
                "exact_amount": draw(decimals(38, 21)),
                "amount": amount,
                "currency": currency,
            }
        )
    return rows


def check_read_back(rows: list[Row]) -> None:
    for file_format in FORMATS:
        assert read_back(written(rows, file_format), file_format) == rows, file_format


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tables())
def test_every_format_gives_the_table_back(rows: list[Row]) -> None:
    check_read_back(rows)


@pytest.mark.prove
@settings(max_examples=1_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tables())
def test_every_format_gives_the_table_back_at_length(rows: list[Row]) -> None:
    check_read_back(rows)


def row_of(number: int = 0, **more: Any) -> Row:
    zero = Decimal(0)
    plain: Row = {"row": number, "text": None, "day": date(2026, 10, 1), "at": ABOUT.created, "quantity": zero}
    return {**plain, "unit_price": zero, "exact_amount": zero, "amount": zero, "currency": "USD", **more}


def test_no_text_becomes_a_formula_a_link_or_markup() -> None:
    content = written([row_of(at, text=text) for at, text in enumerate(NASTY)], "xlsx")
    assert [row["text"] for row in read_back(content, "xlsx")] == list(NASTY)
    with zipfile.ZipFile(io.BytesIO(content)) as book:
        names = book.namelist()
        for name in names:
            root = ET.fromstring(book.read(name))
            tags = {element.tag.rpartition("}")[2] for element in root.iter()}
            assert not tags & {"f", "hyperlink", "hyperlinks"}, name
    assert not [name for name in names if "externalLink" in name or name.endswith(".bin")]


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("999999999999999", True),
        ("1000000000000000", False),
        ("12345678901234567.89", False),
        ("1234567890123.45", True),
        ("-1234567890123.456", False),
        ("0.000000000000000000001", True),
        ("0", True),
        ("0.1234567890123456", False),
    ],
)
def test_a_decimal_is_a_number_only_while_a_double_keeps_its_digits(text: str, fits: bool) -> None:
    assert fits_a_cell(text) is fits
    (sheet,) = load_workbook(io.BytesIO(written([row_of(exact_amount=Decimal(text))], "xlsx"))).worksheets[1:]
    cell = sheet.cell(2, 7)
    assert cell.data_type == ("n" if fits else "s")
    assert Decimal(str(cell.value)) == Decimal(text)


def test_negative_amounts_stand_in_brackets_with_the_places_of_their_currency() -> None:
    rows = [row_of(0, amount=Decimal("-5.00")), row_of(1, amount=Decimal("-5"), currency="JPY")]
    sheet = load_workbook(io.BytesIO(written(rows, "xlsx"))).worksheets[1]
    assert [sheet.cell(row, 8).number_format for row in (2, 3)] == ["#,##0.00_);(#,##0.00)", "#,##0_);(#,##0)"]


def test_a_text_longer_than_a_cell_says_that_it_is_cut() -> None:
    (row,) = read_back(written([row_of(text="\U0001f600" * TEXT_CHARACTERS_MAX)], "xlsx"), "xlsx")
    assert row["text"].endswith(CUT)
    assert len(row["text"].encode("utf-16-le")) // 2 <= TEXT_CHARACTERS_MAX


def test_rows_beyond_a_sheet_go_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billing_adapters.file_adapter.workbook.ROWS_MAX", 4)
    rows = [row_of(number) for number in range(7)]
    content = written(rows, "xlsx")
    assert load_workbook(io.BytesIO(content)).sheetnames == ["about", "everything", "everything 2", "everything 3"]
    assert read_back(content, "xlsx") == rows


def test_the_first_sheet_says_what_this_is_and_adds_up() -> None:
    totals = [("amount", "currency", {"JPY": "-7", "USD": "0.3"}), ("quantity", "text", {">5": "12345678901234567"})]
    rows = [
        row_of(0, amount=Decimal("0.10")),
        row_of(1, amount=Decimal("0.20")),
        row_of(2, amount=Decimal(-7), currency="JPY"),
    ]
    about = About("run-1", "October", ABOUT.created, totals)
    cells = {
        cell.coordinate: cell.value
        for line in load_workbook(io.BytesIO(written(rows, "xlsx", about))).worksheets[0].iter_rows()
        for cell in line
        if cell.value is not None
    }
    found = [(cells[f"A{row}"], cells[f"B{row}"], cells[f"C{row}"], cells.get(f"D{row}")) for row in range(9, 12)]
    formula = "=SUMIF(everything!$I:$I,B{},everything!$H:$H)"
    assert found == [
        ("amount", "JPY", -7, formula.format(9)),
        ("amount", "USD", 0.3, formula.format(10)),
        ("quantity", ">5", "12345678901234567", None),
    ]
    # Whoever reads values only, reads the exact total, not a zero.
    values = load_workbook(io.BytesIO(written(rows, "xlsx", about)), data_only=True).worksheets[0]
    assert [values.cell(row, 4).value for row in (9, 10)] == [-7, 0.3]
    assert {column.name for column in SHAPE.columns} <= set(cells.values())


def test_the_same_table_is_the_same_bytes_and_no_clock_is_in_them() -> None:
    rows = [row_of(number, text=text) for number, text in enumerate(NASTY)]
    first, second = written(rows, "xlsx"), written(rows, "xlsx")
    assert first == second
    with zipfile.ZipFile(io.BytesIO(first)) as book:
        assert {info.date_time[0] for info in book.infolist()} == {1980}
        said = set(re.findall(rb"\d{4}-\d\d-\d\dT[\d:]+Z", book.read("docProps/core.xml")))
    assert said == {iso_utc(ABOUT.created).encode()}
    later = About(ABOUT.run_id, ABOUT.period, ABOUT.created + timedelta(days=31), [])
    assert written(rows, "xlsx", later) != first
