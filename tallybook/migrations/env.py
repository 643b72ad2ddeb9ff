"""Runs the migrations on the connection that `tallybook.books.migrate` opened, inside its transaction."""

from __future__ import annotations

from alembic import context

from tallybook.books import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
