"""How far every step of the scheduler is, who is at it, and every run that there was."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# SQLite keeps instants as text; PostgreSQL has a type for them.
INSTANT = sa.String().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")


def upgrade() -> None:
    op.create_table(
        "step_markers",
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("done_until", INSTANT, nullable=False),
        sa.Column("begun", sa.Integer(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("began_at", INSTANT),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("retry_at", INSTANT),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text()),
        sa.Column("held_until", INSTANT),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("step", "place", name="pk_step_markers"),
    )
    op.create_table(
        "runs",
        sa.Column("run", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("began_at", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT),
        sa.Column("outcome", sa.Text()),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run", name="pk_runs"),
        sa.CheckConstraint(
            "outcome IN ('done', 'finding', 'failed', 'interrupted', 'overtaken')", name=op.f("ck_runs_outcome")
        ),
    )
    op.create_index("ix_runs_step_place_fence", "runs", ["step", "place", "fence"])
