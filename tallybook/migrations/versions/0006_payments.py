"""What providers say of payment, and which of their events were taken."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# SQLite keeps exact numbers and instants as text; PostgreSQL has types for them.
EXACT = sa.String().with_variant(sa.Numeric(), "postgresql")
INSTANT = sa.String().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")


def upgrade() -> None:
    op.create_table(
        "payments",
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("provider_id", sa.Text(), nullable=False),
        sa.Column("invoice_id", sa.Text()),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("total", EXACT, nullable=False),
        sa.Column("amount_due", EXACT, nullable=False),
        sa.Column("amount_paid", EXACT, nullable=False),
        sa.Column("amount_remaining", EXACT, nullable=False),
        sa.Column("read_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("adapter", "provider_id", name="pk_payments"),
    )
    op.create_index("ix_payments_invoice_id", "payments", ["invoice_id"])
    op.create_table(
        "provider_events",
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("received_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("adapter", "event_id", name="pk_provider_events"),
    )
