"""What the tests of the workspace share: a catalog folder to write into, and books in both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tallybook.books import migrate, open_books
from tests.postgres import postgres_server, postgres_url  # noqa: F401 (fixtures)


@pytest.fixture(params=["sqlite", "postgresql"])
def books_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of empty books, in SQLite and in PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/books.sqlite"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def books(books_url: str) -> Iterator[Engine]:
    engine = open_books(books_url)
    migrate(engine)
    yield engine
    engine.dispose()
