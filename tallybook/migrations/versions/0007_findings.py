"""What reconciliation found, what became of it, who waived what, and every control run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# SQLite keeps exact numbers and instants as text; PostgreSQL has types for them.
EXACT = sa.String().with_variant(sa.Numeric(), "postgresql")
INSTANT = sa.String().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")


def upgrade() -> None:
    _waivers()
    _findings()
    _finding_events()
    _reconciliations()
    _control_runs()


def _waivers() -> None:
    op.create_table(
        "waivers",
        sa.Column("waiver_id", sa.Text(), nullable=False),
        sa.Column("control_id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text()),
        sa.Column("meter", sa.Text()),
        sa.Column("reason", sa.Text()),
        sa.Column("dedupe_key", sa.Text()),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("amount_max", EXACT),
        sa.Column("currency", sa.Text()),
        sa.Column("quantity_max", EXACT),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("approved_by", sa.Text(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT),
        sa.Column("ended_by", sa.Text()),
        sa.Column("ended_why", sa.Text()),
        sa.CheckConstraint("why <> ''", name="why"),
        sa.CheckConstraint("approved_by <> created_by", name="approved_by_another"),
        sa.CheckConstraint("amount_max IS NULL OR currency IS NOT NULL", name="amount_with_currency"),
        sa.PrimaryKeyConstraint("waiver_id", name="pk_waivers"),
    )


def _findings() -> None:
    op.create_table(
        "findings",
        sa.Column("finding_id", sa.Text(), nullable=False),
        sa.Column("dedupe_key", sa.Text(), nullable=False),
        sa.Column("control_id", sa.Text(), nullable=False),
        sa.Column("control_version", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("period_start", sa.Date(), nullable=False),
        sa.Column("period_end", sa.Date(), nullable=False),
        *(sa.Column(name, sa.Text()) for name in ("tenant_id", "account_id", "subscription_id", "meter", "adapter")),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("bucket", "reason", "subject")),
        sa.Column("rows", sa.BigInteger()),
        *(sa.Column(f"quantity_{name}", EXACT) for name in ("expected", "actual", "difference")),
        sa.Column("unit", sa.Text()),
        *(sa.Column(f"amount_{name}", EXACT) for name in ("low", "likely", "high")),
        sa.Column("currency", sa.Text()),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("estimate_basis", "control_class", "class")),
        sa.Column("occurred_at", INSTANT),
        sa.Column("recover_by", INSTANT),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("owner", "detail")),
        *(sa.Column(f"evidence_{name}", sa.Text()) for name in ("query", "path", "hash")),
        sa.Column("evidence_sample", sa.Text(), nullable=False),
        sa.Column("first_seen", INSTANT, nullable=False),
        sa.Column("last_seen", INSTANT, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("waiver_id", sa.Text()),
        sa.Column("settled_amount", EXACT),
        sa.Column("settled_quantity", EXACT),
        sa.CheckConstraint(
            "status IN ('open', 'acknowledged', 'recovered', 'waived', 'expired', 'cleared')",
            name="status",
        ),
        sa.CheckConstraint("status <> 'waived' OR waiver_id IS NOT NULL", name="waived_by_a_waiver"),
        sa.ForeignKeyConstraint(["waiver_id"], ["waivers.waiver_id"], name="fk_findings_waiver_id"),
        sa.PrimaryKeyConstraint("finding_id", name="pk_findings"),
        sa.UniqueConstraint("dedupe_key", name="uq_findings_dedupe_key"),
    )
    op.create_index(
        "ix_findings_period_start_period_end_control_id", "findings", ["period_start", "period_end", "control_id"]
    )
    op.create_index("ix_findings_status", "findings", ["status"])


def _finding_events() -> None:
    op.create_table(
        "finding_events",
        sa.Column("finding_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("verb", "status", "class", "by", "why")),
        sa.Column("run_id", sa.Text()),
        sa.Column("amount_likely", EXACT),
        sa.Column("quantity_difference", EXACT),
        sa.ForeignKeyConstraint(["finding_id"], ["findings.finding_id"], name="fk_finding_events_finding_id"),
        sa.PrimaryKeyConstraint("finding_id", "number", name="pk_finding_events"),
    )


def _reconciliations() -> None:
    op.create_table(
        "reconciliations",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("period_start", sa.Date(), nullable=False),
        sa.Column("period_end", sa.Date(), nullable=False),
        sa.Column("as_of", INSTANT, nullable=False),
        *(
            sa.Column(name, sa.Text(), nullable=False)
            for name in ("snapshot_id", "verdict", "preparer", "generator_version")
        ),
        sa.Column("reviewer", sa.Text()),
        sa.Column("reviewed_at", INSTANT),
        sa.CheckConstraint("reviewer IS NULL OR reviewer <> preparer", name="reviewed_by_another"),
        sa.PrimaryKeyConstraint("run_id", name="pk_reconciliations"),
    )
    op.create_index(
        "ix_reconciliations_period_start_period_end_as_of",
        "reconciliations",
        ["period_start", "period_end", "as_of"],
    )


def _control_runs() -> None:
    op.create_table(
        "control_runs",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("control_id", sa.Text(), nullable=False),
        sa.Column("control_version", sa.Integer(), nullable=False),
        sa.Column("control_hash", sa.Text(), nullable=False),
        sa.Column("as_of", INSTANT, nullable=False),
        sa.Column("period_start", sa.Date(), nullable=False),
        sa.Column("period_end", sa.Date(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("point", "cadence", "owner")),
        sa.Column("is_ours", sa.Boolean(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("parameters", "inputs", "result", "explanation")),
        sa.Column("breaks", sa.BigInteger(), nullable=False),
        sa.Column("findings", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("result IN ('passed', 'breaks', 'not_run', 'not_possible')", name="result"),
        sa.ForeignKeyConstraint(["run_id"], ["reconciliations.run_id"], name="fk_control_runs_run_id"),
        sa.PrimaryKeyConstraint("run_id", "control_id", name="pk_control_runs"),
    )
    op.create_index(
        "ix_control_runs_control_id_period_start_as_of", "control_runs", ["control_id", "period_start", "as_of"]
    )
