"""The doctor: every row says what was seen and what to do, and each kind of trouble is found by its own check."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, text
from typer.testing import CliRunner

from billing_adapters.books import deliveries
from metering import Recorder
from metering.clock import FixedClock
from tallybook import Workspace, doctor
from tallybook.cli import app
from tallybook.doctor import Check, examine, probe, room
from tallybook.doctor_workspace import CHECKS
from tallybook.run_books import begin_marker, claim, fail, read_markers
from tallybook.runner import LEASE, Runner
from tests.postgres import postgres_server, postgres_url  # noqa: F401 (fixtures)
from tests.tallybook.shop import open_shop

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
QUIET = '[run.steps]\nmaintain = "off"\nreconcile_open = "off"\nrate = "off"\n'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = open_shop(tmp_path_factory.mktemp("made") / "shop", now=NOW)
    workspace.layout.settings_file.write_text(QUIET, encoding="utf-8")
    workspace.close()
    return workspace.layout.root


@pytest.fixture
def shop(made: Path, tmp_path: Path) -> Iterator[Workspace]:
    root = shutil.copytree(made, tmp_path / "shop")
    with Workspace(root, clock=FixedClock(NOW)) as opened:
        yield opened


def check(workspace: Workspace, name: str) -> Check:
    return doctor.guarded(name, dict(CHECKS)[name], workspace)


def with_settings(shop: Workspace, section: str) -> Workspace:
    shop.layout.settings_file.write_text(QUIET + section, encoding="utf-8")
    return Workspace(shop.layout.root, clock=shop.clock)


def later(shop: Workspace, by: timedelta) -> None:
    assert isinstance(shop.clock, FixedClock)
    shop.clock.advance(by)


def test_all_rows_say_what_was_seen_and_what_to_do_unless_they_are_ok(shop: Workspace) -> None:
    found = examine(shop.layout.root)
    assert {one.result for one in found} <= {"ok", "warn"}, found
    assert all(one.what for one in found)
    assert all(one.to_do for one in found if one.result != "ok")
    assert [one.name for one in found[-len(CHECKS) :]] == [name for name, _ in CHECKS]
    assert list(shop.layout.root.glob(".doctor*")) == [], "its probe is gone"


def test_it_changes_no_marker(shop: Workspace) -> None:
    assert check(shop, "steps").what.startswith("nothing ran")
    with shop.books.connect() as connection:
        assert read_markers(connection) == {}


def test_books_that_cannot_be_reached_are_a_row_of_their_own(shop: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYBOOK_BOOKS_URL", "postgresql+psycopg://clerk:p4ssw0rd@127.0.0.1:1/books")
    result = CliRunner().invoke(app, ["-w", str(shop.layout.root), "doctor", "--json"])
    found = {one["name"]: one for one in json.loads(result.stdout)["checks"]}
    assert result.exit_code == 1
    assert found["books"]["result"] == "fail"
    assert found["lake"]["result"] == "ok", "the others are looked at all the same"
    assert "p4ssw0rd" not in result.output


def test_settings_that_cannot_be_read_are_a_row(shop: Workspace) -> None:
    shop.layout.settings_file.write_text("[bokos]\n", encoding="utf-8")
    last = examine(shop.layout.root)[-1]
    assert (last.name, last.result) == ("settings", "fail")
    assert "bokos" in last.what


def test_a_disk_that_keeps_nothing_and_one_with_another_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe(tmp_path).result == "ok"

    def refused(_file: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refused)
        assert (probe(tmp_path).result, "Input/output error" in probe(tmp_path).what) == ("fail", True)
    with monkeypatch.context() as patch:
        now = doctor.time.time()
        patch.setattr(doctor.time, "time", lambda: now + 90)
        assert (probe(tmp_path).result, "90 s" in probe(tmp_path).what) == ("warn", True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("free_bytes", "files", "free_files", "result"),
    [
        (1 << 30, 1_000_000, 10_000, "ok"),
        ((1 << 30) - 1, 1_000_000, 10_000, "warn"),
        ((64 << 20) - 1, 1_000_000, 10_000, "fail"),
        (1 << 30, 1_000_000, 9_999, "warn"),
        (1 << 30, 1_000_000, 499, "fail"),
        # A file system that makes names as it needs them counts none.
        (1 << 30, 0, 0, "ok"),
    ],
)
def test_a_disk_has_room_for_bytes_and_for_files(
    shop: Workspace, monkeypatch: pytest.MonkeyPatch, free_bytes: int, files: int, free_files: int, result: str
) -> None:
    kept = os.statvfs(shop.layout.root)
    assert room(shop.layout.root).what.endswith(f"free at {shop.layout.root}")
    fields = [*kept]
    fields[5], fields[7] = files, free_files
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(1 << 40, 0, free_bytes))  # type: ignore[attr-defined]
    monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result(fields))
    assert room(shop.layout.root).result == result
    assert check(shop, "lake's disk").result == result, "the lake may be on a disk of its own"


def test_a_library_of_another_version_than_this_release_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = importlib.metadata.version
    assert {one.result for one in doctor._versions()} == {"ok"}
    for name, version, is_right in (
        ("duckdb", "1.9.9", False), ("duckdb", "2", True), ("duckdb", "10.1.dev3", True), ("apscheduler", "4.0.0a6", False),
        ("apscheduler", "3.11", True), ("apscheduler", "3.9.1.post1", False),
    ):  # fmt: skip
        told = {name: version}
        monkeypatch.setattr(importlib.metadata, "version", lambda one, told=told: told.get(one) or installed(one))
        found = {one.name: one for one in doctor._versions()}
        assert (found[name].result == "ok") is is_right, (name, version)
        assert is_right or "this release needs" in found[name].what


def test_files_of_the_catalog_that_were_not_applied(shop: Workspace) -> None:
    assert check(shop, "catalog").result == "ok"
    file = shop.layout.catalog / "shop.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("name: Globex", "name: Globex Ltd"), encoding="utf-8")
    found = check(shop, "catalog")
    assert (found.result, found.what) == ("warn", "1 entries of the files are not those of revision 1: account globex")
    shop.apply()
    assert check(shop, "catalog").result == "ok"


@pytest.mark.parametrize(
    ("key", "result", "said"),
    [
        ("sk_live_0123456789abcdef", "ok", "a secret key of Stripe, live mode"),
        ("rk_test_0123456789abcdef", "ok", "a restricted key of Stripe, test mode"),
        ("pk_live_0123456789abcdef", "fail", "a publishable key"),
        ("0123456789abcdef", "fail", "no secret key"),
        ("", "fail", "nothing is in TALLYBOOK_STRIPE_KEY"),
    ],
)
def test_keys_are_looked_at_and_not_shown(
    shop: Workspace, monkeypatch: pytest.MonkeyPatch, key: str, result: str, said: str
) -> None:
    monkeypatch.setenv("TALLYBOOK_STRIPE_KEY", key)
    with with_settings(shop, "[delivery.stripe]\nfrom = 2026-11-01\n") as again:
        found = check(again, "keys")
    assert (found.result, said in found.what) == (result, True), found
    assert "0123456789abcdef" not in found.what + found.to_do


def test_alerts_need_a_secret(shop: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with with_settings(shop, '[alerts]\nwebhook = "https://example.com/a"\n') as again:
        assert check(again, "keys").result == "fail"
    monkeypatch.setenv("TALLYBOOK_ALERTS_SECRET", "whsec-of-the-alerts")
    with Workspace(shop.layout.root, clock=shop.clock) as again:
        assert check(again, "keys").result == "ok"


def test_what_is_not_shipped_grows_old(shop: Workspace) -> None:
    assert check(shop, "unshipped").result == "ok"
    recorder = Recorder(shop.layout.root, ship="none", clock=shop.clock)
    recorder.record("calls", tenant="acme")
    recorder.flush()
    seen = []
    for minutes in (5, 20, 60):
        later(shop, timedelta(minutes=minutes))
        seen.append(check(shop, "unshipped").result)
    recorder.close()
    shop.ship()
    assert seen == ["ok", "warn", "fail"]
    assert check(shop, "unshipped").result == "ok"


def test_a_month_that_is_over_is_to_be_invoiced(shop: Workspace) -> None:
    assert (check(shop, "unrated").result, check(shop, "unrated").what[:7]) == ("warn", "2026-10")
    shop.close_period("2026-10")
    assert "not invoiced" in check(shop, "unrated").what
    shop.invoice("2026-10", final=True)
    assert check(shop, "unrated") == Check("unrated", "ok", "2026-10 is invoiced")


def waiting(workspace: Workspace, **values: Any) -> None:
    row = {
        "delivery_id": "d-1", "adapter": "stripe", "kind": "invoice", "natural_key": "k", "revision": 1, "content_hash": "",
        "payload": "{}", "lane": "l", "rank": "", "account_id": "a", "subject": "s", "state": "pending", "reason": "",
        "is_uncertain": False, "progress": "{}", "attempts": 0, "enqueued_at": NOW, "next_attempt_at": NOW,
        "deadline": NOW + timedelta(hours=24), "fence": 0, **values,
    }  # fmt: skip
    with workspace.books.begin() as connection:
        connection.execute(insert(deliveries).values(row))


def test_deliveries_that_wait_and_their_deadlines(shop: Workspace) -> None:
    waiting(shop)
    assert [check(shop, name).result for name in ("undelivered", "delivery")] == ["ok", "ok"]
    later(shop, timedelta(hours=2))
    assert check(shop, "undelivered").what.startswith("1 deliveries wait, the oldest of them since 2026-11-01T12:00")
    later(shop, timedelta(hours=21))
    assert (check(shop, "delivery").result, check(shop, "delivery").to_do) == ("fail", "tallybook deliver")


def test_steps_that_fail_and_steps_that_are_late(shop: Workspace) -> None:
    Runner(shop).run_due()
    assert check(shop, "steps").result == "ok"
    begin_marker(shop.books, "alerts", "elsewhere", NOW)
    with shop.books.connect() as connection:
        seen = read_markers(connection)["alerts", ""]
    run = claim(shop.books, seen, "x", "somebody", NOW, LEASE)
    assert run is not None
    fail(shop.books, run, NOW, 3, NOW, "RuntimeError: no")
    found = check(shop, "steps")
    assert (found.result, found.what) == ("warn", "alerts failed 3 times: RuntimeError: no")
    later(shop, timedelta(hours=5))
    assert (check(shop, "steps").result, "late" in check(shop, "steps").what) == ("fail", True)


@pytest.mark.parametrize("hours", [1, 24, 72])
def test_a_scheduler_that_stands_still_is_seen_at_any_minute(shop: Workspace, hours: int) -> None:
    Runner(shop).run_due()
    # Ten minutes after the hour every step was due a few minutes ago; what counts is since when it was not done.
    later(shop, timedelta(hours=hours, minutes=10))
    found = check(shop, "steps")
    assert found.result == "fail"
    assert found.what.startswith(f"ship is due since {timedelta(hours=hours, minutes=9)} ago"), found


def test_a_clock_that_was_set_back_is_found_in_the_books(shop: Workspace) -> None:
    Runner(shop).run_due()
    assert check(shop, "books' clock").result == "ok"
    later(shop, timedelta(minutes=-10))
    assert check(shop, "books' clock").result == "fail"


def test_the_clock_of_a_database_server_is_asked(shop: Workspace, postgres_url: str) -> None:  # noqa: F811
    with with_settings(shop, f'[books]\nurl = "{postgres_url}"\n') as again:
        found = check(again, "books' clock")
        assert (found.result, "database server" in found.what) == ("warn", True)
        with again.books.connect() as connection:
            assert connection.execute(text("SELECT 1")).scalar_one() == 1
    with Workspace(shop.layout.root) as now:
        assert check(now, "books' clock").result == "ok"
        assert "postgresql" in check(now, "books").what
