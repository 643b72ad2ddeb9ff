"""Checks of a whole workspace while its books or its lake are really away, and when they are back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy

from entitlements.checker import Checker
from metering.recorder import Recorder
from tallybook import Workspace

CATALOG = """
meters: [{name: tokens}]
accounts: [{id: a, name: A, tenants: [acme]}]
plans:
  - name: pro
    version: 1
    currency: USD
    entitlements:
      - {feature: sso, type: boolean}
      - {feature: tokens, type: metered, meter: tokens, quota: 1000, reset: never, overage: blocked, on_outage: closed}
      - {feature: hard, type: metered, meter: tokens, quota: 1000, reset: never, limit: hard}
subscriptions: [{id: s, tenant: acme, plan: pro, version: 1, from: 2020-01-01}]
"""


def wait_until(is_so: Callable[[], bool]) -> None:
    turn = threading.Event()
    for _ in range(1500):
        if is_so():
            return
        turn.wait(0.02)
    pytest.fail("it never came")


@contextmanager
def opened(root: Path) -> Iterator[tuple[Workspace, Recorder, Checker]]:
    with Workspace.init(root) as workspace, Recorder(root, ship="none") as usage:
        (root / "catalog" / "all.yaml").write_text(CATALOG, encoding="utf-8")
        workspace.apply()
        with workspace.checker(usage, refresh_interval_s=0.05, stale_after_s=0.4) as entitled:
            yield workspace, usage, entitled


def reasons(entitled: Checker) -> tuple[str, str]:
    return entitled.check("acme", "sso").reason, entitled.check("acme", "tokens").reason


def check_outage(entitled: Checker, usage: Recorder, workspace: Workspace, back: Callable[[], object]) -> None:
    """The source is away: declared answers, counted; then it is back, and knows of all that was used."""
    wait_until(lambda: reasons(entitled) == ("books_away_open", "books_away_closed"))
    health = entitled.health()
    assert health.is_away
    assert health.error is not None
    assert health.answered_open >= 1
    assert health.answered_closed >= 1
    assert not entitled.consume("acme", "tokens", 1)
    back()
    wait_until(lambda: reasons(entitled) == ("granted", "within_quota"))
    assert not entitled.health().is_away
    assert entitled.check("acme", "tokens").used == 12, "7 of before are its own still"
    usage.seal()
    workspace.ship()
    reads = entitled.health().reads
    wait_until(lambda: entitled.health().reads > reads + 1)
    assert entitled.check("acme", "tokens").used == 12, "in the lake now, and counted once"


def test_while_the_lake_is_away(tmp_path: Path) -> None:
    with opened(tmp_path) as (workspace, usage, entitled):
        assert entitled.consume("acme", "tokens", 5)
        usage.seal()
        workspace.ship()
        # Read in the background.
        reads = entitled.health().reads
        wait_until(lambda: entitled.health().reads > reads + 1)
        assert entitled.consume("acme", "tokens", 7).used == 12
        gone = tmp_path / "gone"
        workspace.layout.lake.rename(gone)
        workspace.layout.lake.write_bytes(b"no folder at all")

        def back() -> None:
            workspace.layout.lake.unlink()
            gone.rename(workspace.layout.lake)

        check_outage(entitled, usage, workspace, back)


def test_while_the_database_of_the_books_takes_no_connection(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALLYBOOK_BOOKS_URL", postgres_url)
    url = sqlalchemy.make_url(postgres_url)
    server = sqlalchemy.create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")

    def allow(takes: bool) -> None:
        with server.connect() as connection:
            connection.exec_driver_sql(f"ALTER DATABASE {url.database} WITH ALLOW_CONNECTIONS {str(takes).lower()}")
            if not takes:
                connection.exec_driver_sql(
                    f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{url.database}'"
                )

    with opened(tmp_path) as (workspace, usage, entitled):
        assert entitled.consume("acme", "tokens", 12)
        allow(False)
        try:
            assert entitled.consume("acme", "hard", 1).reason == "books_away_closed"
            check_outage(entitled, usage, workspace, lambda: allow(True))
        finally:
            allow(True)
        wait_until(lambda: entitled.consume("acme", "hard", 1).allowed)
    # What was closed holds no connection, so a server that stops need not wait for it.
    with server.connect() as connection:
        asked = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{url.database}'"
        wait_until(lambda: connection.exec_driver_sql(asked).scalar_one() == 0)
    server.dispose()
