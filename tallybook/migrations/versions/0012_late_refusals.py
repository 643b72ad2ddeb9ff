"""What a provider accepted and refused later, as its reports say."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# SQLite keeps instants as text; PostgreSQL has a type for them.
INSTANT = sa.String().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
KEY = ("adapter", "event_id", "code")


def upgrade() -> None:
    op.create_table(
        "late_refusals",
        *(sa.Column(name, sa.Text(), nullable=False) for name in KEY),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("error_count", sa.Integer(), nullable=False),
        sa.Column("named", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text()),
        sa.Column("start_at", INSTANT),
        sa.Column("end_at", INSTANT),
        sa.Column("received_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint(*KEY, name="pk_late_refusals"),
    )
