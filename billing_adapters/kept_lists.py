"""Lists of providers as evidence: each kept as Parquet with its hash, and known to the books with when and how it was read.

Enters: a `ProviderList`. Leaves: files below a folder, rows in the books, and the list again, verified. Refuses: a file that is
not what it was when it was kept; and to change a list: another reading is another list.

A list has one row per table. What it said is a control point as well (P7 of documents and usage, P8 of payments), counted while
it is kept, so that a file that is lost later is missed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import insert, select

from billing_adapters.books import provider_lists
from billing_adapters.errors import ProviderListRefused
from billing_adapters.provider_list import DOCUMENTS, LINES, PAYMENTS, QUANTITIES, TABLES, provider_schema
from metering.clock import iso_utc
from metering.control_points import COLLECTED, HELD, ControlPoint, write_points
from metering.durable import write_durably
from metering.totals import sums_by

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    import pyarrow as pa
    from sqlalchemy import Connection, Engine

    from billing_adapters.provider_list import ProviderList

Source = Literal["read", "import"]
_AMOUNTS = {DOCUMENTS: "total", LINES: "amount", PAYMENTS: "paid"}


@dataclass(frozen=True, slots=True)
class KeptTable:
    """One table of a list: what it is of, `[start_at, end_at)` of the provider's clock, when it was read, and where it is."""

    list_id: str
    adapter: str
    source: Source
    start_at: datetime
    end_at: datetime
    read_at: datetime
    table_name: str
    rows: int
    path: str
    sha256: str


def keep_list(engine: Engine, folder: Path, held: ProviderList, source: Source) -> list[KeptTable]:
    """Keep a list: its files first, durably, then its rows and control points in one transaction. Idempotent."""
    contents = {name: _parquet(held.tables[name]) for name in TABLES if name in held.tables}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    said = "\x1f".join(
        [held.adapter, source, *map(iso_utc, (held.start, held.end, held.read_at)), *sorted(hashes.values())]
    )
    list_id = f"list-{hashlib.sha256(said.encode()).hexdigest()[:24]}"
    place = folder / list_id
    place.mkdir(parents=True, exist_ok=True)
    kept = []
    for name, content in contents.items():
        path = place / f"{name}.parquet"
        if not path.exists() or path.read_bytes() != content:
            write_durably(path, content)
        kept.append(
            KeptTable(
                list_id,
                held.adapter,
                source,
                held.start,
                held.end,
                held.read_at,
                name,
                held.tables[name].num_rows,
                f"{list_id}/{path.name}",
                hashes[name],
            )
        )
    with engine.begin() as connection:
        there = connection.scalar(select(provider_lists.c.list_id).where(provider_lists.c.list_id == list_id).limit(1))
        if there is None:
            rows = [{column: getattr(one, column) for column in KeptTable.__slots__} for one in kept]
            connection.execute(insert(provider_lists), rows)
            write_points(connection, (point for one in kept for point in _points(one, held.tables[one.table_name])))
    return kept


def kept_tables(connection: Connection, adapter: str | None = None) -> list[KeptTable]:
    """Return every table of every list, newest first."""
    query = select(*(provider_lists.c[name] for name in KeptTable.__slots__))
    if adapter is not None:
        query = query.where(provider_lists.c.adapter == adapter)
    ordered = query.order_by(provider_lists.c.read_at.desc(), provider_lists.c.list_id, provider_lists.c.table_name)
    return [KeptTable(*row) for row in connection.execute(ordered)]


def newest_tables(connection: Connection, adapter: str, start: datetime, end: datetime) -> dict[str, KeptTable]:
    """Return, by table, the newest reading of a span that began by `start` and holds the period, as far as it had come then."""
    found: dict[str, KeptTable] = {}
    for one in kept_tables(connection, adapter):
        if one.start_at <= start and one.end_at > start and (one.end_at >= end or one.read_at < end):
            found.setdefault(one.table_name, one)
    return found


def load_table(folder: Path, kept: KeptTable) -> pa.Table:
    """Return a table that was kept, after checking every byte of it. Raises ProviderListRefused when it is not what it was."""
    import pyarrow as pa
    import pyarrow.parquet

    path = folder / kept.path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ProviderListRefused(f"{path} is gone ({error}); restore it, or read the provider's list again") from error
    if hashlib.sha256(content).hexdigest() != kept.sha256:
        raise ProviderListRefused(
            f"{path} was changed after it was kept; restore it, or read the provider's list again"
        )
    return pyarrow.parquet.read_table(pa.BufferReader(content)).cast(provider_schema(kept.table_name))


def _parquet(table: pa.Table) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet

    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def _points(kept: KeptTable, table: pa.Table) -> Iterator[ControlPoint]:
    """Yield what a table says, by account or currency."""

    by = ["name", "account_id"] if kept.table_name == QUANTITIES else ["currency"]
    summed = "quantity" if kept.table_name == QUANTITIES else _AMOUNTS[kept.table_name]
    if not table.num_rows:
        return
    for row in sums_by(table, by, summed):
        figure = row["sum"]
        named: dict[str, Any] = {"currency": row.get("currency", "")}
        if kept.table_name == QUANTITIES:
            named = {"meter": row["name"], "account_id": row["account_id"], "quantity": figure}
        else:
            named["amount"] = figure
        yield ControlPoint(
            point=COLLECTED if kept.table_name == PAYMENTS else HELD,
            batch_id=kept.list_id,
            reason=kept.table_name,
            written_at=kept.read_at,
            event_count=row["count"],
            adapter=kept.adapter,
            period_start=kept.start_at,
            period_end=kept.end_at,
            **named,
        )
