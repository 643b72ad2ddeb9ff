"""One Arrow table as CSV, JSON lines and Parquet bytes. The same table gives the same bytes.

Enters: a table in a declared schema. Leaves: bytes.
Refuses: exponents, floats, local times, and text that a spreadsheet would run as a formula.

CSV: RFC 4180, UTF-8 without a byte order mark, LF, header, `.` as decimal sign, an empty cell for a missing value.
JSON lines: decimals as text (a reader's float would lose digits), counts as integers, null for a missing value.
Parquet: decimal128 and UTC microseconds, writer settings fixed below. Source: finance files, section 2.
"""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING, Any

import orjson

from metering.clock import iso_utc
from metering.numbers import plain, trimmed
from rating.iso4217 import minor_units
from rating.rounding import round_amount

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal

    import pyarrow as pa

    from billing_adapters.file_adapter.columns import Column, FileShape

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

# A text that begins with one of these is a formula to a spreadsheet (CWE-1236). Texts that already have apostrophes in
# front get one more, so that taking one away always gives the original back.
_FORMULA = re.compile(r"^'*[=+\-@\t\r\x00]")
_NEUTRALISED = re.compile(r"^'+[=+\-@\t\r\x00]")


def neutralise(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula: `=1+1` becomes `'=1+1`. Undone by `original_text`."""
    return f"'{text}" if _FORMULA.match(text) else text


def original_text(text: str) -> str:
    """Return what `neutralise` was given."""
    return text[1:] if _NEUTRALISED.match(text) else text


def csv_bytes(shape: FileShape, table: pa.Table) -> bytes:
    """Return the table as CSV; text columns neutralised, numbers and times left as they are (-5.00 stays a number)."""
    columns = _written(shape, table)
    for column in shape.columns:
        if column.type == "text":
            columns[column.name] = [None if text is None else neutralise(text) for text in columns[column.name]]
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return file.getvalue().encode()


def json_lines_bytes(shape: FileShape, table: pa.Table) -> bytes:
    """Return the table as JSON lines, keys in the order of the columns."""
    columns = _written(shape, table)
    names = list(columns)
    rows = zip(*columns.values(), strict=True)
    lines = (orjson.dumps(dict(zip(names, row, strict=True)), option=orjson.OPT_APPEND_NEWLINE) for row in rows)
    return b"".join(lines)


def parquet_bytes(_shape: FileShape, table: pa.Table) -> bytes:
    """Return the table as Parquet: every digit of every decimal, rows in the order of the file's key."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **PARQUET_SETTINGS)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _written(shape: FileShape, table: pa.Table) -> dict[str, list[Any]]:
    """Return the cells of every column as they are written in text formats."""
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

FORMATS: dict[str, Callable[[FileShape, Any], bytes]] = {
    "csv": csv_bytes,
    "jsonl": json_lines_bytes,
    "parquet": parquet_bytes,
}


def neutralised(column: Column, file_format: str) -> bool:
    """Return whether `neutralise` is applied to a column in a format: text of CSV, nothing else."""
    return file_format == "csv" and column.type == "text"
