"""Reading a published workbook as a person's spreadsheet does, with a library that did not write it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from openpyxl import load_workbook
from openpyxl.utils.escape import unescape

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from billing_adapters.file_adapter.columns import Column, FileShape


def read_workbook(file: Path | BinaryIO, shape: FileShape) -> list[dict[str, Any]]:
    """Return the rows of all sheets of rows, each cell in the type that its column declares."""
    book = load_workbook(file)
    rows: list[dict[str, Any]] = []
    for sheet in book.worksheets[1:]:
        header, *below = list(sheet.iter_rows(max_col=len(shape.columns)))
        assert [cell.value for cell in header] == [
            f"{column.name} (UTC)" if column.type == "instant" else column.name for column in shape.columns
        ]
        for cells in below:
            assert all(cell.data_type != "f" and cell.hyperlink is None for cell in cells)
            rows.append({column.name: _value(column, cell) for column, cell in zip(shape.columns, cells, strict=True)})
    return rows


def _value(column: Column, cell: Any) -> Any:
    value = cell.value
    if value is None:
        return None
    match column.type:
        case "text":
            assert isinstance(value, str)
            # Spreadsheets read _xHHHH_ as a character (ECMA-376, ST_Xstring); openpyxl leaves it to its callers.
            return unescape(value)
        case "integer":
            return int(value)
        case "date":
            return value.date()
        case "instant":
            text = value if isinstance(value, str) else value.isoformat() + "Z"
            return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)
        case _:
            # The digits of a double that are safe; a decimal that needs more is text.
            return Decimal(value if isinstance(value, str) else json.dumps(value))
