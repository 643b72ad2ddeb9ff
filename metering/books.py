"""What metering writes into the books: the cuts of the lake that invoices pin.

One MetaData for all packages, so that `tallybook` can compose and migrate them; each package adds the tables of what it owns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Column, Index, Integer, MetaData, Table, Text
from sqlalchemy.dialects import postgresql, sqlite

from metering.columns import ExactDecimal, Instant

if TYPE_CHECKING:
    from sqlalchemy import Connection

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# One row per cut that anything ever pinned. `cut` is canonical JSON: [[producer_id, last segment included], ...], sorted;
# `snapshot_id` is its hash, so the same cut is the same snapshot whoever takes it.
snapshots = Table(
    "snapshots",
    metadata,
    Column("snapshot_id", Text, primary_key=True),
    Column("cut", Text, nullable=False),
    Column("taken_at", Instant, nullable=False),
)


# One row per (point, batch, account of it): what a stage did, written by the stage as it acted (`metering.control_points`).
# Empty texts stand for what a point does not tell apart. Append-only.
control_points = Table(
    "control_points",
    metadata,
    Column("point", Text, primary_key=True),
    Column("batch_id", Text, primary_key=True),
    Column("adapter", Text, primary_key=True),
    Column("account_id", Text, primary_key=True),
    Column("tenant_id", Text, primary_key=True),
    Column("meter", Text, primary_key=True),
    Column("reason", Text, primary_key=True),
    Column("currency", Text, primary_key=True),
    Column("previous_batch_id", Text, nullable=False),
    Column("period_start", Instant),
    Column("period_end", Instant),
    Column("event_count", Integer, nullable=False),
    Column("quantity", ExactDecimal),
    Column("amount", ExactDecimal),
    Column("written_at", Instant, nullable=False),
    Index(None, "batch_id"),
)


def insertion(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """Return an insert that can say `on_conflict_do_nothing` and `on_conflict_do_update`, in the dialect of the books."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)
