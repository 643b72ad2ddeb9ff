"""One Arrow table as an Excel workbook, to be read by people. The same table gives the same bytes.

Enters: a table in a declared schema, and what is said about it. Leaves: a workbook of two kinds of sheets: `about` (what this
is, control totals, what each column means) and the rows, on numbered sheets where one is too short.
Refuses: formulas, links and markup out of text, digits that a cell cannot hold, and times that a cell would shift.

A cell holds an IEEE double: 15 digits are safe in it, more are not (12345678901234567.89 comes back as ...4567). So a decimal
is a number cell where it has at most 15 digits, and else a text cell, right-aligned, that shows all of them; the sheet
`about` says how many there are. A decimal is handed to the writer as it is; nothing is computed in floats.
An instant is a date cell in UTC (the header says so) where it is a whole second, and else ISO text.
Control totals are exact; beside them stands the sum that the spreadsheet makes of its own cells, so that a filter or an edit
shows. Source: finance files, section 2.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from decimal import Decimal
from typing import TYPE_CHECKING, Any, BinaryIO

from metering.clock import iso_utc
from metering.numbers import plain, trimmed
from rating.iso4217 import minor_units
from rating.rounding import round_amount

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    import pyarrow as pa

    from billing_adapters.file_adapter.columns import Column, FileShape

DIGITS_MAX = 15
TEXT_CHARACTERS_MAX = 32_767
ROWS_MAX = 1_048_576
CUT = " ... (cut here; the CSV and Parquet files have all of it)"
XLSX_SETTINGS = {
    "numbers": f"number cells of at most {DIGITS_MAX} digits, longer decimals as text",
    "times": "UTC; whole seconds as date cells, others as ISO text",
    "text_longer_than": TEXT_CHARACTERS_MAX,
}
# Rows from the top of each sheet of rows that are not data: its header.
HEADER_ROWS = 1
_BATCH_ROWS = 16_384
_WIDTHS = {"text": 20, "integer": 12, "date": 12, "instant": 20, "quantity": 16, "unit_price": 16, "amount": 14}
_WIDE = frozenset({"description", "account_name"})
_RULE = "#BFC8D2"


@dataclass(frozen=True, slots=True)
class About:
    """What a workbook says of itself. `created` stands in its properties: the end of the period, never a clock.

    `totals`: (column, per, sums by key as exact text), as the manifest has them.
    """

    run_id: str
    period: str
    created: datetime
    totals: Sequence[tuple[str, str, dict[str, str]]]


def write_workbook(shape: FileShape, table: pa.Table, file: BinaryIO, about: About) -> None:
    """Write the table as a workbook. By far the slowest of the formats; takes memory for some thousand rows only."""
    with made_workbook(file, shape.name, about) as book:
        Sheets(book, shape, about).write(table)


@contextmanager
def made_workbook(file: BinaryIO, title: str, about: About) -> Iterator[Any]:
    """Give an empty workbook in which no text can become a formula or a link; it is in `file` when this ends."""
    import xlsxwriter

    # A zip file is written with steps back, which a file that is hashed on the way cannot take.
    with tempfile.TemporaryFile() as scratch:
        options = {
            "constant_memory": True,
            "strings_to_formulas": False,
            "strings_to_urls": False,
            "strings_to_numbers": False,
            "default_date_format": "yyyy-mm-dd",
        }
        with xlsxwriter.Workbook(scratch, options) as book:
            book.set_properties(
                {"title": title, "subject": about.period, "comments": about.run_id, "created": about.created}
            )
            yield book
        scratch.seek(0)
        shutil.copyfileobj(scratch, file)


class Sheets:
    """The sheets of one workbook and the formats of their cells."""

    def __init__(self, book: Any, shape: FileShape, about: About) -> None:
        self._book = book
        self._shape = shape
        self._about = about
        self._formats: dict[str, Any] = {}
        # Decimals by column that were too long for a number.
        self._texts: Counter[str] = Counter()
        self._names: list[str] = []

    def write(self, table: pa.Table) -> None:
        about = self._book.add_worksheet("about")
        rows_per_sheet = ROWS_MAX - HEADER_ROWS
        for number, start in enumerate(range(0, max(table.num_rows, 1), rows_per_sheet), start=1):
            self.write_rows(table.slice(start, rows_per_sheet), number)
        self._write_about(about, table.num_rows)
        # People want the rows first; what they mean stands before them.
        self._book.worksheets()[1].activate()

    def write_rows(self, table: pa.Table, number: int = 1) -> None:
        """Write rows as a sheet of their own, called as the shape is; the second of one shape is `NAME 2`."""
        name = self._shape.name if number == 1 else f"{self._shape.name} {number}"
        self._names.append(name)
        sheet = self._book.add_worksheet(name)
        sheet.freeze_panes(HEADER_ROWS, 0)
        header = self._format("header", bold=True, bottom=1, bottom_color=_RULE, bg_color="#EEF2F6", valign="vcenter")
        for at, column in enumerate(self._shape.columns):
            width = 32 if column.name in _WIDE else _WIDTHS.get(column.type, 24)
            sheet.set_column(at, at, max(width, len(header_of(column)) + 2))
        for at, column in enumerate(self._shape.columns):
            written(sheet.write_string(0, at, header_of(column), header))
        sheet.autofilter(0, 0, max(table.num_rows, 1), len(self._shape.columns) - 1)
        sheet.set_landscape()
        sheet.set_paper(9)
        sheet.fit_to_pages(1, 0)
        sheet.repeat_rows(0)
        sheet.set_footer("&L&A&RPage &P of &N")
        sheet.print_area(0, 0, max(table.num_rows, 1), len(self._shape.columns) - 1)
        for start in range(0, table.num_rows, _BATCH_ROWS):
            self._write_batch(sheet, start + HEADER_ROWS, table.slice(start, _BATCH_ROWS))

    def _write_batch(self, sheet: Any, first: int, batch: pa.Table) -> None:
        columns = [batch[column.name].to_pylist() for column in self._shape.columns]
        names = [column.name for column in self._shape.columns]
        currencies = columns[names.index("currency")] if "currency" in names else [None] * batch.num_rows
        # Row by row: with constant memory a row that was left cannot be written any more.
        for row, (currency, *cells) in enumerate(zip(currencies, *columns, strict=True), start=first):
            for at, (column, cell) in enumerate(zip(self._shape.columns, cells, strict=True)):
                if cell is not None:
                    self._write_cell(sheet, row, at, column, cell, currency)

    def _write_cell(self, sheet: Any, row: int, at: int, column: Column, cell: Any, currency: str | None) -> None:
        match column.type:
            case "text":
                self._write_text(sheet, row, at, cell, None)
            case "integer":
                written(sheet.write_number(row, at, cell, self._format("integer", num_format="0")))
            case "date":
                written(sheet.write_datetime(row, at, cell, self._format("date", num_format="yyyy-mm-dd")))
            case "instant":
                self._write_instant(sheet, row, at, cell)
            case "amount" if currency is not None:
                self._write_decimal(sheet, row, at, column, round_amount(cell, minor_units(currency)))
            case _:
                self._write_decimal(sheet, row, at, column, cell)

    def _write_text(self, sheet: Any, row: int, at: int, text: str, text_format: Any) -> None:
        if len(text.encode("utf-16-le")) // 2 > TEXT_CHARACTERS_MAX:
            text = text[: TEXT_CHARACTERS_MAX // 2 - len(CUT)] + CUT
        if text.startswith("<r>") and text.endswith("</r>"):
            # The writer takes such a text for markup that it made itself and puts it into the sheet as it is. In two
            # pieces it is escaped.
            written(sheet.write_rich_string(row, at, text[0], self._format("piece"), text[1:]))
        else:
            written(sheet.write_string(row, at, text, text_format))

    def _write_instant(self, sheet: Any, row: int, at: int, instant: datetime) -> None:
        if instant.microsecond:
            self._write_text(sheet, row, at, iso_utc(instant), None)
            return
        utc = instant.astimezone(UTC).replace(tzinfo=None)
        written(sheet.write_datetime(row, at, utc, self._format("instant", num_format="yyyy-mm-dd hh:mm:ss")))

    def _write_decimal(self, sheet: Any, row: int, at: int, column: Column, number: Decimal) -> None:
        text = plain(number) if column.type == "amount" else trimmed(number)
        places = len(text.partition(".")[2])
        if fits_a_cell(text):
            written(sheet.write_number(row, at, number, self._number(places, is_money=column.type == "amount")))
            return
        self._texts[column.name] += 1
        self._write_text(sheet, row, at, text, self._format("digits", align="right", font_color="#5B6770"))

    def _number(self, places: int, *, is_money: bool) -> Any:
        digits = "#,##0" + ("." + "0" * places if places else "")
        # Accountants read brackets as a minus; what is under them lines up.
        shown = f"{digits}_);({digits})" if is_money else digits
        return self._format(shown, num_format=shown)

    def _format(self, key: str, **properties: Any) -> Any:
        if key not in self._formats:
            self._formats[key] = self._book.add_format(properties)
        return self._formats[key]

    def _write_about(self, sheet: Any, rows: int) -> None:
        """Write what this is, the control totals beside the sums of the cells, and what each column means."""
        bold, wrap = self._format("bold", bold=True), self._format("wrap", text_wrap=True, valign="top")
        title = self._format("title", bold=True, font_size=16)
        heading = self._format("heading", bold=True, bottom=1, bottom_color=_RULE)
        sheet.set_column(0, 0, 28)
        sheet.set_column(1, 1, 22)
        sheet.set_column(2, 3, 22)
        sheet.set_column(4, 4, 90)
        sheet.hide_gridlines(2)
        sheet.fit_to_pages(1, 0)
        sheet.set_landscape()
        sheet.set_paper(9)
        row = 0
        written(sheet.write_string(row, 0, self._shape.name.replace("_", " "), title))
        said = [
            ("What", self._shape.grain),
            ("Period", self._about.period),
            ("Run", self._about.run_id),
            ("Rows", f"{rows:,}"),
        ]
        for row, (name, text) in enumerate(said, start=2):
            written(sheet.write_string(row, 0, name, bold))
            self._write_text(sheet, row, 1, text, None)
        row = self._write_totals(sheet, row + 2, heading)
        for at, name in enumerate(("column", "type", "unit", "as text", "meaning")):
            written(sheet.write_string(row, at, name, heading))
        for below, column in enumerate(self._shape.columns, start=row + 1):
            long = self._texts[column.name]
            texts = (column.name, column.type.replace("_", " "), column.unit or "", f"{long:,} cells" if long else "")
            for at, text in enumerate((*texts, column.meaning)):
                if text:
                    written(sheet.write_string(below, at, text, wrap))

    def _write_totals(self, sheet: Any, row: int, heading: Any) -> int:
        for at, name in enumerate(("control total", "per", "exact", "sum of the cells")):
            written(sheet.write_string(row, at, name, heading))
        row += 1
        for name, per, sums in self._about.totals:
            for key, total in sums.items():
                self._write_text(sheet, row, 0, name, None)
                self._write_text(sheet, row, 1, key, None)
                is_money = name != "quantity"
                shown = self._number(len(total.partition(".")[2]), is_money=is_money)
                if fits_a_cell(total):
                    written(sheet.write_number(row, 2, Decimal(total), shown))
                else:
                    self._write_text(sheet, row, 2, total, self._format("digits", align="right", font_color="#5B6770"))
                # Where a cell is text, a sum of the cells would miss it, and say nothing. A meter may be called what a
                # spreadsheet takes for a condition (`>5`); a currency may not.
                if per == "currency" and fits_a_cell(total) and not self._texts[name] and len(self._names) == 1:
                    formula = self._sum_of(name, per, row)
                    written(sheet.write_formula(row, 3, formula, shown, Decimal(total)))
                row += 1
        return row + 1

    def _sum_of(self, name: str, per: str, row: int) -> str:
        from xlsxwriter.utility import xl_col_to_name

        places = {column.name: xl_col_to_name(at) for at, column in enumerate(self._shape.columns)}
        sheet = self._names[0]
        summed, keys = (f"{sheet}!${places[one]}:${places[one]}" for one in (name, per))
        return f"=SUMIF({keys},B{row + 1},{summed})"


def header_of(column: Column) -> str:
    """Return the header of a column: its name, and the zone of instants, which a date cell cannot say."""
    return f"{column.name} (UTC)" if column.type == "instant" else column.name


def fits_a_cell(text: str) -> bool:
    """Return whether a decimal, as plain text, comes back from a double digit by digit."""
    digits = text.lstrip("-")
    return len(digits.replace(".", "").strip("0")) <= DIGITS_MAX and len(digits.partition(".")[0]) <= DIGITS_MAX


def written(code: int) -> None:
    """Refuse silence: the writer returns a code below zero for a cell that it left out."""
    if code is not None and code < 0:
        raise ValueError(f"a cell of the workbook was not written (code {code})")
