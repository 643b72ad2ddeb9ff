"""What every stage did as it acted, and the lists of providers that were read."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# SQLite keeps exact numbers and instants as text; PostgreSQL has types for them.
EXACT = sa.String().with_variant(sa.Numeric(), "postgresql")
INSTANT = sa.String().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
KEY = ("point", "batch_id", "adapter", "account_id", "tenant_id", "meter", "reason", "currency")


def upgrade() -> None:
    op.create_table(
        "control_points",
        *(sa.Column(name, sa.Text(), nullable=False) for name in KEY),
        sa.Column("previous_batch_id", sa.Text(), nullable=False),
        sa.Column("period_start", INSTANT),
        sa.Column("period_end", INSTANT),
        sa.Column("event_count", sa.Integer(), nullable=False),
        sa.Column("quantity", EXACT),
        sa.Column("amount", EXACT),
        sa.Column("written_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint(*KEY, name="pk_control_points"),
    )
    op.create_index("ix_control_points_batch_id", "control_points", ["batch_id"])
    op.create_table(
        "provider_lists",
        sa.Column("list_id", sa.Text(), nullable=False),
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("start_at", INSTANT, nullable=False),
        sa.Column("end_at", INSTANT, nullable=False),
        sa.Column("read_at", INSTANT, nullable=False),
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("list_id", "table_name", name="pk_provider_lists"),
        sa.CheckConstraint("source IN ('read', 'import')", name=op.f("ck_provider_lists_source")),
    )
    op.create_index("ix_provider_lists_adapter_read_at", "provider_lists", ["adapter", "read_at"])
