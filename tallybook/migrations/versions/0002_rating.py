"""What the full rating writes: components by cell, and the kinds of lines that stand around a price.

Written out, as in 0001. Rows that are there keep their meaning: they belong to the one cell '' that every price has.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


# SQLite keeps exact numbers as text; PostgreSQL has a type for them.
EXACT = sa.String().with_variant(sa.Numeric(), "postgresql")


def upgrade() -> None:
    with op.batch_alter_table("charges") as table:
        table.add_column(sa.Column("cell_key", sa.Text(), nullable=False, server_default=""))
    with op.batch_alter_table("closes") as table:
        table.add_column(sa.Column("kind", sa.Text(), nullable=False, server_default="period"))
        table.create_check_constraint(op.f("ck_closes_kind"), "kind IN ('period', 'corrections', 'thresholds')")
    with op.batch_alter_table("invoices") as table:
        table.add_column(sa.Column("document_type", sa.Text(), nullable=False, server_default="invoice"))
        table.add_column(sa.Column("amount_due", EXACT))
        table.create_check_constraint(
            op.f("ck_invoices_document_type"), "document_type IN ('invoice', 'credit_note', 'supplementary_invoice')"
        )
    op.execute("UPDATE invoices SET amount_due = total")
    with op.batch_alter_table("invoices") as table:
        table.alter_column("amount_due", existing_type=EXACT, nullable=False)
    with op.batch_alter_table("invoice_lines") as table:
        table.drop_constraint(op.f("ck_invoice_lines_kind"), type_="check")
        table.create_check_constraint(
            op.f("ck_invoice_lines_kind"), "kind IN ('flat', 'usage', 'minimum', 'correction')"
        )
    _create_balance_burns()


def _create_balance_burns() -> None:
    op.create_table(
        "balance_burns",
        sa.Column("invoice_id", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("line_id", sa.Text(), nullable=False),
        sa.Column("balance_id", sa.Text(), nullable=False),
        sa.Column("amount", EXACT, nullable=False),
        sa.PrimaryKeyConstraint("invoice_id", "position", name="pk_balance_burns"),
        sa.ForeignKeyConstraint(["invoice_id"], ["invoices.invoice_id"], name="fk_balance_burns_invoice_id"),
        sa.ForeignKeyConstraint(["line_id"], ["invoice_lines.line_id"], name="fk_balance_burns_line_id"),
    )
    op.create_index("ix_balance_burns_balance_id", "balance_burns", ["balance_id"])
