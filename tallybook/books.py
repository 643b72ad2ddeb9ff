"""Opens the books: SQLite in the workspace, or PostgreSQL by URL; and keeps their tables at the newest shape.

Enters: a URL. Leaves: an engine whose transactions are durable when they return, and migrated tables. The tables of the
catalog are declared here; those of snapshots, closes, invoices and deliveries by their packages, on the same MetaData.
Refuses: other databases. What a busy or unreachable database says becomes `BooksUnavailable`, which may be retried.

SQLite: write-ahead log, foreign keys, full synchronisation, and `BEGIN IMMEDIATE`, because a transaction that reads first
and writes later would otherwise fail instead of waiting when another process wrote in between. `reading` begins one that
takes no lock.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    Engine,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    Table,
    Text,
    create_engine,
    event,
    text,
)
from sqlalchemy.engine import URL

import billing_adapters.books  # noqa: F401 (as rating.books)
import entitlements.books  # noqa: F401 (as rating.books)
import rating.books  # noqa: F401 (all put their tables on the MetaData that migrations are compared with)
import tallybook.run_books  # noqa: F401 (as rating.books)
from metering.books import metadata
from metering.columns import Instant
from rating.errors import BooksUnavailable
from tallybook.books_url import BOOKS_URLS, parse_books_url
from tallybook.errors import BadSettings, BooksTooNew

__all__ = [
    "catalog_entries", "catalog_names", "catalog_revisions", "lock_for_writing", "metadata", "migrate", "open_books", "reading",
]  # fmt: skip

BUSY_TIMEOUT_MS = 30_000
MIGRATIONS = Path(__file__).parent / "migrations"
# Any number, as long as every Tallybook takes the same: PostgreSQL's advisory locks are named by numbers.
_LOCK_NUMBER = 7_411_981
_READ_ONLY = "tallybook_reading"


class _Cursor(Protocol):
    def execute(self, statement: str, /) -> object: ...


# One row per revision of the catalog: 1, 2, 3 ... A revision is never changed or removed.
catalog_revisions = Table(
    "catalog_revisions",
    metadata,
    Column("revision", Integer, primary_key=True, autoincrement=False),
    Column("applied_at", Instant, nullable=False),
    Column("summary", Text, nullable=False),
)

# One row per (kind, key, span of revisions): what the catalog said of it in [revision_from, revision_to), open while
# null. `definition` is canonical JSON, numbers as text; `content_hash` its sha256 with numbers without trailing zeros.
catalog_entries = Table(
    "catalog_entries",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("revision_from", Integer, ForeignKey("catalog_revisions.revision"), primary_key=True, autoincrement=False),
    Column("revision_to", Integer, ForeignKey("catalog_revisions.revision")),
    Column("definition", Text, nullable=False),
    Column("content_hash", Text, nullable=False),
    Index(None, "revision_to"),
)

# One row per (entry, part, name): the tenants and accounts that an entry of a customer names. Derived of `definition`, so
# that the few entries of one tenant are found among those of a hundred thousand.
catalog_names = Table(
    "catalog_names",
    metadata,
    Column("part", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("revision_from", Integer, primary_key=True, autoincrement=False),
    ForeignKeyConstraint(
        ["kind", "key", "revision_from"],
        ["catalog_entries.kind", "catalog_entries.key", "catalog_entries.revision_from"],
    ),
    CheckConstraint("part IN ('tenant', 'account')", name="part"),
)


def open_books(url: str | URL) -> Engine:
    """Return an engine for the books. `sqlite:////absolute/path/books.sqlite` or `postgresql+psycopg://...`.

    Nothing is created yet but, for SQLite, the file at the first connection; call `migrate`. What a busy, full or
    unreachable database answers is raised as BooksUnavailable (Retryable). Raises BadSettings for any other database.
    """
    parsed = parse_books_url(url)
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        engine = create_engine(parsed)
        _make_sqlite_safe(engine)
    elif backend == "postgresql":
        engine = create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
    else:
        raise BadSettings(f"the books cannot be in {backend}; write {BOOKS_URLS}")
    event.listen(engine, "handle_error", _raise_unavailable)
    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Give a connection that only reads, sees one state of SQLite's books throughout, and keeps no writer waiting."""
    with engine.connect().execution_options(**{_READ_ONLY: True}) as connection:
        yield connection


def lock_for_writing(connection: Connection) -> None:
    """Wait until no other transaction that called this is under way; released with the transaction.

    SQLite needs nothing: its writing transactions follow one another. PostgreSQL takes an advisory lock.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK_NUMBER})


def migrate(engine: Engine) -> None:
    """Bring the tables to the newest shape, in one transaction. Idempotent; safe when several processes do it at once.

    Raises BooksTooNew (Terminal) when the books were written by a newer Tallybook than this.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config()
    # A percent sign in a path would be read as an interpolation.
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        lock_for_writing(connection)
        current = MigrationContext.configure(connection).get_current_revision()
        if current == ScriptDirectory.from_config(config).get_current_head():
            return
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as refused:
            raise BooksTooNew(
                f"the books are at migration {current!r}, which this release does not know; install the release "
                "that wrote them, or a newer one"
            ) from refused


def _make_sqlite_safe(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _record: Any) -> None:
        # The driver's own BEGIN would come too late and without IMMEDIATE; ours is sent below.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        write_ahead(cursor)
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        is_reading = connection.get_execution_options().get(_READ_ONLY, False)
        connection.exec_driver_sql("BEGIN DEFERRED" if is_reading else "BEGIN IMMEDIATE")


def write_ahead(cursor: _Cursor) -> None:
    """Switch the file to a write-ahead log; the switch stays in the file. Raises sqlite3.OperationalError when it cannot."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as refused:
            # Of two connections that switch a new file at once SQLite refuses one without asking its busy timeout, as the
            # two would wait for each other. Whoever was refused finds the file switched when it looks again.
            if refused.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.005)


def _raise_unavailable(context: Any) -> None:
    original = context.original_exception
    if isinstance(original, sqlite3.OperationalError):
        code = getattr(original, "sqlite_errorcode", 0) & 0xFF
        passing = code in {
            sqlite3.SQLITE_BUSY,
            sqlite3.SQLITE_LOCKED,
            sqlite3.SQLITE_FULL,
            sqlite3.SQLITE_IOERR,
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_READONLY,
        }
    else:
        # psycopg: 08 connection, 40 lost a race, 53 out of resources, 55 locked, 57 shut down; none when it never connected.
        state = getattr(original, "sqlstate", None)
        is_operational = type(original).__name__ == "OperationalError" or context.is_disconnect
        passing = is_operational and (state is None or state[:2] in {"08", "40", "53", "55", "57"})
        passing = passing or (state or "")[:2] == "40"
    if passing:
        raise BooksUnavailable(
            f"the books could not be used just now ({original}); nothing was half done, try again, "
            "and look at the disk or the database server if it stays so"
        ) from original
