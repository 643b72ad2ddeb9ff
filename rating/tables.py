"""Small tables of terms, from rows of Python values to the engine.

Enters: a name, columns by kind, and rows. Leaves: a table of the engine with exact types. Refuses: floats, which none of
the kinds takes.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from metering.usage import register

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import duckdb
    import pyarrow as pa


@cache
def kinds() -> Mapping[str, pa.DataType]:
    """Return the Arrow type of each kind of column."""
    import pyarrow as pa

    return {
        "text": pa.string(),
        "int": pa.int64(),
        "bool": pa.bool_(),
        "instant": pa.timestamp("us", tz="UTC"),
        "quantity": pa.decimal128(38, 9),
        "price": pa.decimal128(24, 12),
        "factor": pa.decimal128(18, 0),
        "whole": pa.decimal128(38, 0),
        "ratio": pa.decimal128(10, 6),
        "exact": pa.decimal128(38, 21),
        "amount": pa.decimal128(38, 12),
    }


def load_table(
    engine: duckdb.DuckDBPyConnection, name: str, columns: Mapping[str, str], rows: Sequence[Sequence[object]]
) -> None:
    """Make a table of the engine from rows of Python values, replacing an earlier one."""
    import pyarrow as pa

    values = list(zip(*rows, strict=True)) if rows else [()] * len(columns)
    arrays = {
        column: pa.array(list(column_values), kinds()[kind])
        for (column, kind), column_values in zip(columns.items(), values, strict=True)
    }
    register(engine, name, pa.table(arrays))
