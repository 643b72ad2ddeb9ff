"""Whom the entries of a catalog name, so that one tenant's are found without reading those of all.

Written out, as in 0001; filled from the definitions that are there.
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

KEY = ("kind", "key", "revision_from")
ROWS_AT_ONCE = 10_000


def upgrade() -> None:
    names = op.create_table(
        "catalog_names",
        sa.Column("part", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("revision_from", sa.Integer(), nullable=False, autoincrement=False),
        sa.PrimaryKeyConstraint("part", "name", *KEY, name="pk_catalog_names"),
        sa.ForeignKeyConstraint(
            KEY, [f"catalog_entries.{name}" for name in KEY], name="fk_catalog_names_kind_key_revision_from"
        ),
        sa.CheckConstraint("part IN ('tenant', 'account')", name=op.f("ck_catalog_names_part")),
    )
    connection = op.get_bind()
    held = connection.execute(
        sa.text(
            "SELECT kind, key, revision_from, definition FROM catalog_entries"
            " WHERE kind IN ('account', 'balance', 'grant', 'subscription')"
        )
    ).all()
    rows = [
        {"part": part, "name": name, "kind": kind, "key": key, "revision_from": revision_from}
        for kind, key, revision_from, definition in held
        for part, name in _named_by(json.loads(definition))
    ]
    for at in range(0, len(rows), ROWS_AT_ONCE):
        connection.execute(sa.insert(names), rows[at : at + ROWS_AT_ONCE])


def _named_by(definition: dict[str, object]) -> set[tuple[str, str]]:
    listed = definition.get("tenants", [])
    tenants = [*(listed if isinstance(listed, list) else []), definition.get("tenant")]
    named = [*(("tenant", name) for name in tenants), ("account", definition.get("account"))]
    return {(part, name) for part, name in named if isinstance(name, str)}
