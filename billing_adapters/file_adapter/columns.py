"""What a column and a file are: name, type, unit, meaning, and whether a cell may be empty.

Enters: nothing. Leaves: the words in which `shapes.py` declares every file; every format of a file is written from one
Arrow table of that schema.
Refuses: a column without a meaning. One sentence each; docs/files.md and the workbooks say the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa

Type = Literal["text", "integer", "date", "instant", "quantity", "unit_price", "exact_amount", "amount"]

_QUANTITY_UNIT = "units of the meter, see column unit"
_MONEY_UNIT = "see column currency"
_UNITS: dict[str, str] = {
    "instant": "UTC",
    "quantity": _QUANTITY_UNIT,
    "unit_price": _MONEY_UNIT,
    "exact_amount": _MONEY_UNIT,
    "amount": _MONEY_UNIT,
}


class Format(StrEnum):
    """What a run may be written as, in this order: each file in four, and each document as a letter (html)."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    XLSX = "xlsx"
    HTML = "html"


ALL_FORMATS = tuple(one.value for one in Format)


@dataclass(frozen=True, slots=True)
class Column:
    """One column: `type` decides how it is stored (Parquet) and written (CSV, JSON lines, XLSX)."""

    name: str
    type: Type
    meaning: str
    nullable: bool = False

    @property
    def unit(self) -> str | None:
        return _UNITS.get(self.type)


@dataclass(frozen=True, slots=True)
class FileShape:
    """One file: its grain in words, its columns, the key that orders and identifies its rows, and its control totals.

    A control total is the sum of one column per value of another, e.g. `amount` per `currency`.
    """

    name: str
    grain: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    control_totals: tuple[tuple[str, str], ...]


@cache
def arrow_schema(shape: FileShape) -> pa.Schema:
    """Return the Arrow schema of a file. Amounts have four places, the most that a currency of ISO 4217 has."""
    import pyarrow as pa

    types = {
        "text": pa.string(),
        "integer": pa.int64(),
        "date": pa.date32(),
        "instant": pa.timestamp("us", tz="UTC"),
        "quantity": pa.decimal128(38, 9),
        "unit_price": pa.decimal128(24, 12),
        "exact_amount": pa.decimal128(38, 21),
        "amount": pa.decimal128(38, 4),
    }
    return pa.schema([pa.field(column.name, types[column.type], nullable=column.nullable) for column in shape.columns])
