"""Who bought at a marketplace, which registration tokens were redeemed, and what the marketplace told of licences."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# SQLite keeps instants as text; PostgreSQL has a type for them.
INSTANT = sa.String().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")


def upgrade() -> None:
    op.create_table(
        "marketplace_buyers",
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("licence", sa.Text(), nullable=False),
        sa.Column("product", sa.Text(), nullable=False),
        sa.Column("aws_account_id", sa.Text()),
        sa.Column("licence_arn", sa.Text()),
        sa.Column("customer_identifier", sa.Text()),
        sa.Column("agreement_id", sa.Text()),
        sa.Column("account_id", sa.Text()),
        sa.Column("tenant_id", sa.Text()),
        sa.Column("starts_at", INSTANT),
        sa.Column("registered_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("adapter", "licence", name="pk_marketplace_buyers"),
    )
    op.create_table(
        "marketplace_registrations",
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("licence", sa.Text(), nullable=False),
        sa.Column("redeemed_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("adapter", "token_hash", name="pk_marketplace_registrations"),
    )
    op.create_table(
        "marketplace_notices",
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("notice_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("licence", sa.Text()),
        sa.Column("agreement_id", sa.Text()),
        sa.Column("product", sa.Text()),
        sa.Column("happened_at", INSTANT, nullable=False),
        sa.Column("received_at", INSTANT, nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("handled_at", INSTANT),
        sa.PrimaryKeyConstraint("adapter", "notice_id", name="pk_marketplace_notices"),
    )
    op.create_index("ix_marketplace_notices_licence", "marketplace_notices", ["adapter", "licence"])
