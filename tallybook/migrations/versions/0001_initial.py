"""The first tables: snapshots, closes, invoices with their lines and charges, and the history of the catalog.

The shapes are written out, not taken from the code, so that this file makes the same tables for ever. There is no way
back: the books are append-only where history is money.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# SQLite keeps exact numbers and instants as text; PostgreSQL has types for them.
EXACT = sa.String().with_variant(sa.Numeric(), "postgresql")
INSTANT = sa.String().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")


def upgrade() -> None:
    _create_catalog()
    _create_closes()
    _create_invoices()
    _create_invoice_lines()
    _create_charges()


def _create_catalog() -> None:
    op.create_table(
        "catalog_revisions",
        sa.Column("revision", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("applied_at", INSTANT, nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("revision", name="pk_catalog_revisions"),
    )
    op.create_table(
        "catalog_entries",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("revision_from", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("revision_to", sa.Integer()),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "key", "revision_from", name="pk_catalog_entries"),
        sa.ForeignKeyConstraint(
            ["revision_from"], ["catalog_revisions.revision"], name="fk_catalog_entries_revision_from"
        ),
        sa.ForeignKeyConstraint(["revision_to"], ["catalog_revisions.revision"], name="fk_catalog_entries_revision_to"),
    )
    op.create_index("ix_catalog_entries_revision_to", "catalog_entries", ["revision_to"])


def _create_closes() -> None:
    op.create_table(
        "snapshots",
        sa.Column("snapshot_id", sa.Text(), nullable=False),
        sa.Column("cut", sa.Text(), nullable=False),
        sa.Column("taken_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("snapshot_id", name="pk_snapshots"),
    )
    op.create_table(
        "closes",
        sa.Column("close_id", sa.Text(), nullable=False),
        sa.Column("period_start", INSTANT, nullable=False),
        sa.Column("period_end", INSTANT, nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("as_of", INSTANT, nullable=False),
        sa.Column("is_complete", sa.Boolean(), nullable=False),
        sa.Column("snapshot_id", sa.Text(), nullable=False),
        sa.Column("catalog_revision", sa.Integer(), nullable=False),
        sa.Column("invoices_made", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("close_id", name="pk_closes"),
        sa.ForeignKeyConstraint(["snapshot_id"], ["snapshots.snapshot_id"], name="fk_closes_snapshot_id"),
        sa.UniqueConstraint(
            "period_start", "period_end", "sequence", name="uq_closes_period_start_period_end_sequence"
        ),
        sa.CheckConstraint("sequence >= 0", name=op.f("ck_closes_sequence")),
    )


def _create_invoices() -> None:
    op.create_table(
        "number_series",
        sa.Column("series", sa.Text(), nullable=False),
        sa.Column("last_number", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("series", name="pk_number_series"),
    )
    op.create_table(
        "invoices",
        sa.Column("invoice_id", sa.Text(), nullable=False),
        sa.Column("close_id", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("series", sa.Text(), nullable=False),
        sa.Column("number", sa.Text()),
        sa.Column("period_start", INSTANT, nullable=False),
        sa.Column("period_end", INSTANT, nullable=False),
        sa.Column("issued_at", INSTANT, nullable=False),
        sa.Column("snapshot_id", sa.Text(), nullable=False),
        sa.Column("catalog_revision", sa.Integer(), nullable=False),
        sa.Column("total", EXACT, nullable=False),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("invoice_id", name="pk_invoices"),
        sa.ForeignKeyConstraint(["close_id"], ["closes.close_id"], name="fk_invoices_close_id"),
        sa.ForeignKeyConstraint(["snapshot_id"], ["snapshots.snapshot_id"], name="fk_invoices_snapshot_id"),
        sa.UniqueConstraint("close_id", "account_id", "currency", name="uq_invoices_close_id_account_id_currency"),
        sa.UniqueConstraint("series", "number", name="uq_invoices_series_number"),
        sa.CheckConstraint("status IN ('draft', 'final', 'void')", name=op.f("ck_invoices_status")),
    )


def _create_invoice_lines() -> None:
    op.create_table(
        "invoice_lines",
        sa.Column("line_id", sa.Text(), nullable=False),
        sa.Column("invoice_id", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("subscription_id", sa.Text(), nullable=False),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("plan_version", sa.Integer(), nullable=False),
        sa.Column("price_id", sa.Text(), nullable=False),
        sa.Column("price_type", sa.Text(), nullable=False),
        sa.Column("meter", sa.Text()),
        sa.Column("unit", sa.Text()),
        sa.Column("group_key", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("period_start", INSTANT, nullable=False),
        sa.Column("period_end", INSTANT, nullable=False),
        sa.Column("service_start", INSTANT, nullable=False),
        sa.Column("service_end", INSTANT, nullable=False),
        sa.Column("quantity", EXACT, nullable=False),
        sa.Column("exact_amount", EXACT, nullable=False),
        sa.Column("amount", EXACT, nullable=False),
        sa.Column("cumulative_quantity", EXACT, nullable=False),
        sa.Column("cumulative_exact_amount", EXACT, nullable=False),
        sa.Column("cumulative_amount", EXACT, nullable=False),
        sa.PrimaryKeyConstraint("line_id", name="pk_invoice_lines"),
        sa.ForeignKeyConstraint(["invoice_id"], ["invoices.invoice_id"], name="fk_invoice_lines_invoice_id"),
        sa.UniqueConstraint("invoice_id", "position", name="uq_invoice_lines_invoice_id_position"),
        sa.CheckConstraint("kind IN ('flat', 'usage', 'correction')", name=op.f("ck_invoice_lines_kind")),
    )
    op.create_index(
        "ix_invoice_lines_subscription_id_period_start", "invoice_lines", ["subscription_id", "period_start"]
    )


def _create_charges() -> None:
    op.create_table(
        "charges",
        sa.Column("line_id", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("tier", sa.Integer(), nullable=False),
        sa.Column("part", sa.Text(), nullable=False),
        sa.Column("quantity", EXACT, nullable=False),
        sa.Column("unit_price", EXACT, nullable=False),
        sa.Column("exact_amount", EXACT, nullable=False),
        sa.PrimaryKeyConstraint("line_id", "position", name="pk_charges"),
        sa.ForeignKeyConstraint(["line_id"], ["invoice_lines.line_id"], name="fk_charges_line_id"),
    )
