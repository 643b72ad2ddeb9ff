"""Payments, refunds and write-offs that are booked, and what every final document asks for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# SQLite keeps instants and exact decimals as text; PostgreSQL has types for them.
INSTANT = sa.String().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
EXACT = sa.String().with_variant(sa.Numeric(), "postgresql")
SERIES = ("adapter", "provider_id", "kind", "sequence")


def upgrade() -> None:
    op.create_table(
        "settlements",
        sa.Column("settlement_id", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("provider_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("invoice_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("amount", EXACT, nullable=False),
        sa.Column("paid_at", INSTANT),
        sa.Column("posted_at", INSTANT, nullable=False),
        sa.Column("read_at", INSTANT, nullable=False),
        sa.Column("booked_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("settlement_id", name="pk_settlements"),
        sa.UniqueConstraint(*SERIES, name="uq_settlements_adapter_provider_id_kind_sequence"),
        sa.CheckConstraint("kind IN ('payment', 'refund', 'write_off')", name=op.f("ck_settlements_kind")),
    )
    op.create_index("ix_settlements_position", "settlements", ["position"])
    op.create_index("ix_settlements_invoice_id", "settlements", ["invoice_id"])
    op.create_table(
        "receivables",
        sa.Column("invoice_id", sa.Text(), nullable=False),
        sa.Column("entity", sa.Text()),
        sa.Column("payable", EXACT, nullable=False),
        sa.Column("due_on", sa.Date()),
        sa.PrimaryKeyConstraint("invoice_id", name="pk_receivables"),
    )
