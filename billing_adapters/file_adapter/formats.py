"""One Arrow table as CSV, JSON lines, Parquet and XLSX. The same table gives the same bytes.

Enters: a table in a declared schema, and a file to write to. Leaves: bytes in it, row batch by row batch.
Refuses: exponents, floats, local times, and text that a spreadsheet would run as a formula.

CSV: RFC 4180, UTF-8 without a byte order mark, LF, header, `.` as decimal sign, an empty cell for a missing value.
JSON lines: decimals as text (a reader's float would lose digits), counts as integers, null for a missing value.
Parquet: decimal128 and UTC microseconds, writer settings fixed below. XLSX: see workbook.py. Source: finance files, section 2.
"""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import orjson

from billing_adapters.file_adapter.workbook import write_workbook
from metering.clock import iso_utc
from metering.numbers import plain, trimmed
from rating.iso4217 import minor_units
from rating.rounding import round_amount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from decimal import Decimal

    import pyarrow as pa

    from billing_adapters.file_adapter.columns import Column, FileShape
    from billing_adapters.file_adapter.workbook import About

PARQUET_SETTINGS: dict[str, Any] = {
    "version": "2.6",
    "data_page_version": "1.0",
    "compression": "zstd",
    "compression_level": 3,
    "row_group_size": 131_072,
    "use_dictionary": True,
    "write_statistics": True,
    "store_schema": False,
}
CSV_SETTINGS = {
    "dialect": "RFC 4180",
    "encoding": "UTF-8",
    "line_end": "LF",
    "missing": "empty cell",
    "neutralised": "a text cell that begins with = + - @ tab CR or NUL, behind any number of ', has one more ' in front",
}
JSON_LINES_SETTINGS = {"encoding": "UTF-8", "line_end": "LF", "decimals": "text", "missing": "null"}
_BATCH_ROWS = 16_384
_CRLF = "\r\n"

# A text that begins with one of these is a formula to a spreadsheet (CWE-1236). Texts that already have apostrophes in
# front get one more, so that taking one away always gives the original back.
_FORMULA = re.compile(r"^'*[=+\-@\t\r\x00]")
_NEUTRALISED = re.compile(r"^'+[=+\-@\t\r\x00]")


class Writer(Protocol):
    """How a table becomes a file of one format."""

    def __call__(self, shape: FileShape, table: pa.Table, file: BinaryIO, about: About, /) -> None: ...


def neutralise(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula: `=1+1` becomes `'=1+1`. Undone by `original_text`."""
    return f"'{text}" if _FORMULA.match(text) else text


def original_text(text: str) -> str:
    """Return what `neutralise` was given."""
    return text[1:] if _NEUTRALISED.match(text) else text


def write_csv(shape: FileShape, table: pa.Table, file: BinaryIO, _about: About) -> None:
    """Write the table as CSV; text columns neutralised, numbers and times left as they are (-5.00 stays a number)."""
    csv_head(shape, file)
    csv_rows(shape, table, file)


def csv_head(shape: FileShape, file: BinaryIO) -> None:
    """Write the head line of a file as CSV."""
    _write_csv_rows(file, [[column.name for column in shape.columns]])


def csv_rows(shape: FileShape, table: pa.Table, file: BinaryIO) -> None:
    """Write the rows of a table as CSV, below a head line that is there."""
    texts = [column.name for column in shape.columns if column.type == "text"]
    for columns in written_batches(shape, table):
        for name in texts:
            columns[name] = [None if text is None else neutralise(text) for text in columns[name]]
        _write_csv_rows(file, zip(*columns.values(), strict=True))


def _write_csv_rows(file: BinaryIO, rows: Any) -> None:
    lines = _Lines()
    csv.writer(lines, lineterminator=_CRLF, quoting=csv.QUOTE_MINIMAL).writerows(rows)
    file.write("".join(lines).encode())


class _Lines(list[str]):
    """Lines of CSV that end in LF. Python's writer quotes a CR only where lines end in it, so it is told that they do."""

    def write(self, line: str) -> None:
        self.append(line.removesuffix(_CRLF) + "\n")


def write_json_lines(shape: FileShape, table: pa.Table, file: BinaryIO, _about: About) -> None:
    """Write the table as JSON lines, keys in the order of the columns."""
    names = [column.name for column in shape.columns]
    for columns in written_batches(shape, table):
        rows = zip(*columns.values(), strict=True)
        lines = (orjson.dumps(dict(zip(names, row, strict=True)), option=orjson.OPT_APPEND_NEWLINE) for row in rows)
        file.write(b"".join(lines))


def write_parquet(_shape: FileShape, table: pa.Table, file: BinaryIO, _about: About) -> None:
    """Write the table as Parquet: every digit of every decimal, rows in the order of the file's key."""
    import pyarrow.parquet as pq

    pq.write_table(table, file, **PARQUET_SETTINGS)


def written_batches(shape: FileShape, table: pa.Table) -> Iterator[dict[str, list[Any]]]:
    """Yield the cells of every column as they are written in text formats, some rows at a time."""
    for start in range(0, table.num_rows, _BATCH_ROWS):
        yield _written(shape, table.slice(start, _BATCH_ROWS))


def _written(shape: FileShape, table: pa.Table) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {column.name: table[column.name].to_pylist() for column in shape.columns}
    currencies = columns.get("currency", [])
    for column in shape.columns:
        cells = columns[column.name]
        if column.type == "amount":
            columns[column.name] = [_amount_text(*pair) for pair in zip(cells, currencies, strict=True)]
        elif (write := _WRITERS.get(column.type)) is not None:
            columns[column.name] = [None if cell is None else write(cell) for cell in cells]
    return columns


def _amount_text(amount: Decimal, currency: str) -> str:
    # No digit is lost: amounts were rounded to these places when the line was made.
    return plain(round_amount(amount, minor_units(currency)))


_WRITERS: dict[str, Callable[[Any], str]] = {
    "date": lambda day: str(day.isoformat()),
    "instant": iso_utc,
    "quantity": trimmed,
    "unit_price": trimmed,
    "exact_amount": trimmed,
}

FORMATS: dict[str, Writer] = {
    "csv": write_csv,
    "jsonl": write_json_lines,
    "parquet": write_parquet,
    "xlsx": write_workbook,
}


def neutralised(column: Column, file_format: str) -> bool:
    """Return whether `neutralise` is applied to a column in a format: text of CSV, nothing else."""
    return file_format == "csv" and column.type == "text"
