"""What delivery keeps: deliveries, their attempts, names at providers, and the pace of calls."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# SQLite keeps exact numbers and instants as text; PostgreSQL has types for them.
EXACT = sa.String().with_variant(sa.Numeric(), "postgresql")
INSTANT = sa.String().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")


def upgrade() -> None:
    _create_deliveries()
    op.create_table(
        "delivery_attempts",
        sa.Column("delivery_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("deliverer", sa.Text(), nullable=False),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT),
        sa.Column("outcome", sa.Text()),
        sa.Column("detail", sa.Text()),
        sa.Column("code", sa.Text()),
        sa.Column("request_id", sa.Text()),
        sa.PrimaryKeyConstraint("delivery_id", "number", name="pk_delivery_attempts"),
        sa.ForeignKeyConstraint(["delivery_id"], ["deliveries.delivery_id"], name="fk_delivery_attempts_delivery_id"),
    )
    op.create_table(
        "delivery_links",
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("our_id", sa.Text(), nullable=False),
        sa.Column("provider_id", sa.Text(), nullable=False),
        sa.Column("linked_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("adapter", "kind", "our_id", name="pk_delivery_links"),
    )
    op.create_table(
        "delivery_paces",
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("next_call_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("adapter", name="pk_delivery_paces"),
    )


def _create_deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("delivery_id", sa.Text(), nullable=False),
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("natural_key", sa.Text(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("rank", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("amount", EXACT),
        sa.Column("currency", sa.Text()),
        sa.Column("quantity", EXACT),
        sa.Column("series", sa.Text()),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text()),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("is_uncertain", sa.Boolean(), nullable=False),
        sa.Column("progress", sa.Text(), nullable=False),
        sa.Column("provider_id", sa.Text()),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("enqueued_at", INSTANT, nullable=False),
        sa.Column("next_attempt_at", INSTANT, nullable=False),
        sa.Column("deadline", INSTANT, nullable=False),
        sa.Column("claimed_by", sa.Text()),
        sa.Column("claimed_until", INSTANT),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("ended_at", INSTANT),
        sa.Column("decided_by", sa.Text()),
        sa.PrimaryKeyConstraint("delivery_id", name="pk_deliveries"),
        sa.UniqueConstraint(
            "adapter", "kind", "natural_key", "revision", name="uq_deliveries_adapter_kind_natural_key_revision"
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'attempting', 'delivered', 'parked', 'waived')", name=op.f("ck_deliveries_state")
        ),
        sa.CheckConstraint("state <> 'parked' OR reason <> ''", name=op.f("ck_deliveries_parked_with_reason")),
    )
    op.create_index(
        "ix_deliveries_queue",
        "deliveries",
        ["adapter", "state", "deadline", "next_attempt_at", "rank", "delivery_id"],
    )
    op.create_index("ix_deliveries_lane", "deliveries", ["adapter", "lane", "state"])
    op.create_index("ix_deliveries_subject", "deliveries", ["subject"])
    op.create_index("ix_deliveries_series", "deliveries", ["adapter", "series"])
