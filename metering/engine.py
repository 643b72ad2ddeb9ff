"""DuckDB, opened for one computation and closed to the world.

Enters: the exact data files that may be read. Leaves: a connection with UTC, no network, no extensions, no other files.
Refuses: to keep a database file; every computation starts from the lake and the books, and ends with a table.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb
    import pyarrow as pa


def open_engine(
    files: Sequence[str] = (),
    *,
    folder: str | None = None,
    threads: int | None = None,
    memory_limit: str = "4GB",
    in_order: bool = False,
) -> duckdb.DuckDBPyConnection:
    """Return an in-memory DuckDB that may read `files` and nothing else. The caller closes it.

    Below `folder` it may read and write: what is derived is kept there. With `in_order` rows leave it in the order of their
    files, and decimals of up to 18 digits in 64 bits.

    Only settings are made that are a boundary, or that an answer would be another one without, in the order that makes them
    final: after `lock_configuration` nobody can change them again.
    """
    import duckdb

    engine = duckdb.connect(":memory:")
    engine.execute("SET allowed_paths = $files", {"files": list(files)})
    if folder is not None:
        engine.execute("SET allowed_directories = $folders", {"folders": [folder]})
    engine.execute("SET python_enable_replacements = false")
    engine.execute("SET temp_directory = ''")
    engine.execute("SET memory_limit = $limit", {"limit": memory_limit})
    if threads is not None:
        engine.execute("SET threads = $threads", {"threads": threads})
    engine.execute("SET TimeZone = 'UTC'")
    engine.execute("SET preserve_insertion_order = $in_order", {"in_order": in_order})
    if in_order:
        engine.execute("SET arrow_output_version = '1.5'")
        # Each file is read once.
        engine.execute("SET enable_external_file_cache = false")
    # DuckDB 2.0 takes an outer join for empty where its statistics say so of one side, and compares sums of it as if they were 0.
    engine.execute("SET disabled_optimizers = 'statistics_propagation'")
    engine.execute("SET enable_external_access = false")
    engine.execute("SET lock_configuration = true")
    return engine


def fetch(engine: duckdb.DuckDBPyConnection, statement: str, parameters: dict[str, object] | None = None) -> pa.Table:
    """Return what a SELECT gives as an Arrow table, decimals and instants as they are."""
    return engine.sql(statement, params=parameters or {}).to_arrow_table()


@cache
def read_sql(package: str, name: str) -> str:
    """Return the statement in `<package>/sql/<name>.sql`: one statement, values only as $named parameters."""
    return resources.files(package).joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")
