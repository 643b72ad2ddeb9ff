"""The books open safely, migrate to exactly the declared tables, and keep numbers and instants as they are."""

from __future__ import annotations

import sqlite3
import threading
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, insert, inspect, select, text

from metering.books import snapshots
from metering.errors import Retryable, Terminal
from rating.books import number_series
from rating.errors import BooksUnavailable
from tallybook.books import catalog_revisions, lock_for_writing, metadata, migrate, open_books, reading, write_ahead
from tallybook.errors import BadSettings, BooksTooNew

NOW = datetime(2026, 10, 1, 12, 30, 0, 1, tzinfo=UTC)


def test_the_migrations_make_exactly_the_declared_tables(books: Engine) -> None:
    with books.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        found = inspect(connection)
        for table in metadata.sorted_tables:
            assert {check["name"] for check in found.get_check_constraints(table.name)} == {
                constraint.name for constraint in table.constraints if type(constraint).__name__ == "CheckConstraint"
            }
            assert found.get_pk_constraint(table.name)["constrained_columns"] == [c.name for c in table.primary_key]


def test_migrating_again_changes_nothing(books: Engine) -> None:
    with books.begin() as connection:
        connection.execute(insert(catalog_revisions).values(revision=1, applied_at=NOW, summary="1 added"))
    migrate(books)
    with books.connect() as connection:
        assert connection.execute(select(catalog_revisions.c.summary)).scalars().all() == ["1 added"]


def test_several_processes_may_migrate_at_once(books_url: str) -> None:
    engines = [open_books(books_url) for _ in range(3)]
    failures: list[BaseException] = []

    def run(engine: Engine) -> None:
        try:
            migrate(engine)
        except BaseException as failure:  # noqa: BLE001 (told to the test)
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with engines[0].connect() as connection:
        assert set(metadata.tables) <= set(inspect(connection).get_table_names())
    for engine in engines:
        engine.dispose()


class RefusedOnce:
    """SQLite as it answers one of two who switch a new file at once: of 900 openings by six processes it refused eight."""

    def __init__(self, cursor: sqlite3.Cursor, code: int) -> None:
        self.cursor = cursor
        self.refusal: sqlite3.OperationalError | None = sqlite3.OperationalError("database is locked")
        self.refusal.sqlite_errorcode = code

    def execute(self, statement: str) -> sqlite3.Cursor:
        refusal, self.refusal = self.refusal, None
        if refusal is not None:
            raise refusal
        return self.cursor.execute(statement)


def test_the_switch_to_a_write_ahead_log_is_tried_again_when_another_process_switches(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "books.sqlite", isolation_level=None)
    write_ahead(RefusedOnce(connection.cursor(), sqlite3.SQLITE_BUSY))
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with pytest.raises(sqlite3.OperationalError):
        write_ahead(RefusedOnce(connection.cursor(), sqlite3.SQLITE_IOERR))
    connection.close()


def test_books_of_a_newer_release_are_left_alone(books: Engine) -> None:
    with books.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(BooksTooNew, match="'9999', which this release does not know; install the release"):
        migrate(books)


def test_migrations_are_found_from_any_folder_and_a_path_with_a_percent_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "100% mine"
    folder.mkdir()
    monkeypatch.chdir(folder)
    engine = open_books("sqlite:///books.sqlite")
    migrate(engine)
    assert (folder / "books.sqlite").exists()
    engine.dispose()


def test_instants_come_back_in_utc_with_microseconds(books: Engine) -> None:
    paris = NOW.astimezone(timezone(timedelta(hours=2)))
    with books.begin() as connection:
        connection.execute(insert(snapshots).values(snapshot_id="a", cut="[]", taken_at=paris))
    with books.connect() as connection:
        taken_at = connection.execute(select(snapshots.c.taken_at)).scalar_one()
    assert (taken_at, taken_at.tzinfo) == (NOW, UTC)


def test_the_order_of_instants_is_the_order_of_time(books: Engine) -> None:
    instants = [NOW, NOW.replace(microsecond=0), NOW + timedelta(days=1), datetime(1999, 12, 31, tzinfo=UTC)]
    with books.begin() as connection:
        for number, instant in enumerate(instants):
            connection.execute(insert(snapshots).values(snapshot_id=str(number), cut="[]", taken_at=instant))
    with books.connect() as connection:
        found = connection.execute(select(snapshots.c.taken_at).order_by(snapshots.c.taken_at)).scalars().all()
    assert found == sorted(instants)


def test_a_naive_time_never_reaches_the_books(books: Engine) -> None:
    row = insert(snapshots).values(snapshot_id="a", cut="[]", taken_at=datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(Exception, match="datetimes with a zone only"), books.begin() as connection:
        connection.execute(row)


@pytest.mark.parametrize(
    "written", ["0", "0.000000000001", "-12345678901234567890123456789.123456789", "49.00", "1E+3"]
)
def test_decimals_come_back_exactly(books: Engine, written: str) -> None:
    with books.begin() as connection:
        connection.execute(text(f"CREATE TABLE probe (amount {_exact_type(books)})"))
        probe = _probe_table()
        connection.execute(insert(probe).values(amount=Decimal(written)))
        assert connection.execute(select(probe.c.amount)).scalar_one() == Decimal(written)


def test_sqlite_waits_for_another_writer_and_syncs_every_commit(tmp_path: Path) -> None:
    engine = open_books(f"sqlite:///{tmp_path}/books.sqlite")
    with engine.connect() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert pragmas == ["wal", 2, 1, 30_000]
    engine.dispose()


def test_two_writers_that_read_first_follow_one_another(books: Engine) -> None:
    """Reading a number, then raising it, from two threads at once: no number is lost, and nobody is refused."""
    with books.begin() as connection:
        connection.execute(insert(number_series).values(series="INV", last_number=0))

    def give_out() -> None:
        for _ in range(20):
            with books.begin() as connection:
                lock_for_writing(connection)
                last = connection.execute(select(number_series.c.last_number)).scalar_one()
                connection.execute(number_series.update().values(last_number=last + 1))

    threads = [threading.Thread(target=give_out) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with reading(books) as connection:
        assert connection.execute(select(number_series.c.last_number)).scalar_one() == 40


def test_a_reader_does_not_wait_for_a_writer(books: Engine) -> None:
    with books.begin() as writer:
        writer.execute(insert(number_series).values(series="INV", last_number=7))
        with reading(books) as reader:
            assert reader.execute(select(number_series.c.last_number)).all() == []


def test_busy_books_are_an_error_that_may_be_retried(tmp_path: Path) -> None:
    engine = open_books(f"sqlite:///{tmp_path}/books.sqlite")
    migrate(engine)
    other = sqlite3.connect(tmp_path / "books.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with reading(engine) as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 1")
        with pytest.raises(BooksUnavailable, match="try again") as refused:
            connection.execute(insert(number_series).values(series="INV", last_number=1))
    assert isinstance(refused.value, Retryable)
    other.close()
    engine.dispose()


def test_an_unreachable_server_is_an_error_that_may_be_retried() -> None:
    engine = open_books("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(BooksUnavailable), engine.connect():
        pass


def test_a_missing_table_is_no_passing_trouble(tmp_path: Path) -> None:
    engine = open_books(f"sqlite:///{tmp_path}/books.sqlite")
    with pytest.raises(Exception, match="no such table") as refused, engine.connect() as connection:
        connection.execute(select(number_series))
    assert not isinstance(refused.value, Retryable | Terminal)
    engine.dispose()


@pytest.mark.parametrize("url", ["mysql://localhost/books", "books.sqlite", "duckdb:///x"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(BadSettings, match="write sqlite:///path or postgresql"):
        open_books(url)


def _exact_type(engine: Engine) -> str:
    return "NUMERIC" if engine.dialect.name == "postgresql" else "TEXT"


def _probe_table():  # type: ignore[no-untyped-def]
    from sqlalchemy import Column, MetaData, Table

    from metering.columns import ExactDecimal

    return Table("probe", MetaData(), Column("amount", ExactDecimal))
