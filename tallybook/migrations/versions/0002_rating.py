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


def upgrade() -> None:
    with op.batch_alter_table("charges") as table:
        table.add_column(sa.Column("cell_key", sa.Text(), nullable=False, server_default=""))
