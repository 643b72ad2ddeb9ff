"""What entitlements keep: hard quotas, the leases drawn on them, and alerts with their delivery."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# SQLite keeps exact numbers and instants as text; PostgreSQL has types for them.
EXACT = sa.String().with_variant(sa.Numeric(), "postgresql")
INSTANT = sa.String().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")


def upgrade() -> None:
    _create_quotas()
    _create_leases()
    _create_alerts()


def _create_quotas() -> None:
    op.create_table(
        "quotas",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("feature", sa.Text(), nullable=False),
        sa.Column("window_start", INSTANT, nullable=False),
        sa.Column("window_end", INSTANT),
        sa.Column("quota", EXACT, nullable=False),
        sa.Column("granted", EXACT, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("metered", EXACT),
        sa.PrimaryKeyConstraint("tenant_id", "feature", "window_start", name="pk_quotas"),
    )


def _create_leases() -> None:
    op.create_table(
        "leases",
        sa.Column("lease_id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("feature", sa.Text(), nullable=False),
        sa.Column("window_start", INSTANT, nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("quantity", EXACT, nullable=False),
        sa.Column("spent", EXACT, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("taken_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT),
        sa.PrimaryKeyConstraint("lease_id", name="pk_leases"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "feature", "window_start"],
            ["quotas.tenant_id", "quotas.feature", "quotas.window_start"],
            name="fk_leases_tenant_id_feature_window_start",
        ),
        sa.CheckConstraint("state IN ('open', 'settled')", name=op.f("ck_leases_state")),
    )
    op.create_index(
        "ix_leases_tenant_id_feature_window_start_state", "leases", ["tenant_id", "feature", "window_start", "state"]
    )


def _create_alerts() -> None:
    op.create_table(
        "alerts",
        sa.Column("alert_id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("feature", sa.Text(), nullable=False),
        sa.Column("threshold", sa.Text(), nullable=False),
        sa.Column("window_start", INSTANT, nullable=False),
        sa.Column("window_end", INSTANT),
        sa.Column("level", EXACT, nullable=False),
        sa.Column("raised_at", INSTANT, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", INSTANT, nullable=False),
        sa.Column("delivered_at", INSTANT),
        sa.Column("last_error", sa.Text()),
        sa.PrimaryKeyConstraint("alert_id", name="pk_alerts"),
        sa.UniqueConstraint(
            "tenant_id",
            "feature",
            "threshold",
            "window_start",
            name="uq_alerts_tenant_id_feature_threshold_window_start",
        ),
        sa.CheckConstraint("state IN ('pending', 'delivered')", name=op.f("ck_alerts_state")),
    )
    op.create_index("ix_alerts_state_next_attempt_at", "alerts", ["state", "next_attempt_at"])
