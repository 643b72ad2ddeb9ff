"""Hard quotas of a workspace: spent by leases of its books, whoever asks, and accounted for when a process is dead."""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from entitlements.checker import Checker
from entitlements.decisions import BILLIONTHS
from entitlements.leased import ViewTerms
from entitlements.leases import LeaseBook, QuotaKey
from entitlements.view import View
from metering.clock import FixedClock
from metering.recorder import Recorder
from rating.errors import CatalogInvalid
from tallybook import Workspace
from tallybook.cli import app
from tallybook.entitlements import Entitlements
from tallybook.lease_accounts import GRACE, holder_of

CATALOG = """
meters:
  - {name: tokens}
  - {name: calls, aggregation: count}
  - {name: disk, aggregation: max}
accounts:
  - {id: a, name: A, tenants: [acme]}
plans:
  - name: pro
    version: 1
    currency: USD
    entitlements:
      - {feature: tokens, type: metered, meter: tokens, quota: 100, limit: hard}
      - {feature: calls, type: metered, meter: calls, quota: 40, limit: hard, reset: never}
subscriptions:
  - {id: s-acme, tenant: acme, plan: pro, version: 1, from: 2026-01-01}
"""
TOP_UP = "grants:\n  - {id: g1, tenant: acme, feature: tokens, amount: 40, effective: 2026-02-01}\n"
NOW = datetime(2026, 3, 20, tzinfo=UTC)


def open_(root: Path, more: str = "", now: datetime = NOW) -> Workspace:
    workspace = Workspace.init(root, clock=FixedClock(now))
    (root / "catalog" / "all.yaml").write_text(CATALOG + more, encoding="utf-8")
    workspace.apply()
    return workspace


def process(workspace: Workspace) -> tuple[Recorder, Checker]:
    """Return what one process of an application has."""
    usage = Recorder(workspace.layout.root, ship="none", clock=workspace.clock)
    return usage, workspace.checker(usage, refresh_interval_s=3600, stale_after_s=7200)


def ship(workspace: Workspace, usage: Recorder) -> None:
    usage.seal()
    workspace.ship()


def test_all_processes_together_are_granted_the_quota_and_not_one_more(tmp_path: Path) -> None:
    with open_(tmp_path) as workspace:
        processes = [process(workspace) for _ in range(3)]
        allowed = 0
        for number in range(200):
            _, entitled = processes[number % 3]
            allowed += bool(entitled.consume("acme", "tokens"))
            if number == 150:
                for _, other in processes[1:]:
                    other.close()
        for usage, entitled in processes:
            entitled.close()
            ship(workspace, usage)
            usage.close()
        assert 80 <= allowed <= 100
        states = Entitlements(workspace, NOW + timedelta(seconds=1)).states()
        tokens = next(one for one in states if one.entitled.entitlement.feature == "tokens")
        assert tokens.used == allowed, "what was consumed is what was metered"


def test_an_event_of_a_meter_that_counts_takes_one_whatever_its_quantity(tmp_path: Path) -> None:
    with open_(tmp_path) as workspace:
        usage, entitled = process(workspace)
        with usage, entitled:
            assert [bool(entitled.consume("acme", "calls", 7)) for _ in range(41)] == [True] * 40 + [False]
            assert entitled.check("acme", "calls").reason == "quota_exhausted"


def test_a_top_up_is_heard_with_the_next_view_also_by_who_comes_new(tmp_path: Path) -> None:
    with open_(tmp_path) as workspace:
        usage, entitled = process(workspace)
        assert entitled.consume("acme", "tokens", 100)
        assert not entitled.consume("acme", "tokens", 1)
        later = open_(tmp_path, TOP_UP, NOW + timedelta(seconds=5))
        other_usage, other = process(later)
        assert other.consume("acme", "tokens", 30), "the books knew of 100 only; this process knows better"
        assert not other.consume("acme", "tokens", 11)
        for one in (entitled, other, usage, other_usage, later):
            one.close()


def test_who_knows_less_is_not_believed(tmp_path: Path) -> None:
    """The top-up expired; a process with an old view must not bring it back."""
    expires = TOP_UP.replace("effective: 2026-02-01", "effective: 2026-02-01, expires: 2026-03-20T00:00:01Z")
    with open_(tmp_path, expires) as workspace:
        old_usage, old = process(workspace)
        assert old.check("acme", "tokens").limit == 140
        later = Workspace(tmp_path, clock=FixedClock(NOW + timedelta(seconds=5)))
        new_usage, new = process(later)
        assert new.consume("acme", "tokens", 1).limit == 100
        assert not old.consume("acme", "tokens", 120)
        assert old.consume("acme", "tokens", 90).limit == 100
        for one in (old, new, old_usage, new_usage, later):
            one.close()


def test_what_is_carried_over_a_reset_is_not_granted_twice(tmp_path: Path) -> None:
    with open_(tmp_path, TOP_UP) as workspace:
        usage, entitled = process(workspace)
        assert entitled.consume("acme", "tokens", 130)
        entitled.close()
        april = Workspace(tmp_path, clock=FixedClock(datetime(2026, 4, 2, tzinfo=UTC)))
        # Nothing was shipped: usage says nothing of the 130, the books do.
        assert april.lake.cut() == {}
        other_usage, other = process(april)
        assert not other.consume("acme", "tokens", 111), "10 of the top-up are left"
        assert other.consume("acme", "tokens", 110)
        for one in (other, usage, other_usage, april):
            one.close()


def test_a_quota_starts_anew_before_the_next_view(tmp_path: Path) -> None:
    last_second = datetime(2026, 3, 31, 23, 59, 59, tzinfo=UTC)
    with open_(tmp_path, now=last_second) as workspace:
        usage, entitled = process(workspace)
        assert entitled.consume("acme", "tokens", 100)
        assert not entitled.consume("acme", "tokens")
        workspace.clock.advance(timedelta(seconds=2))  # type: ignore[attr-defined]
        decision = entitled.consume("acme", "tokens", 60)
        assert (decision.allowed, decision.resets_at) == (True, datetime(2026, 5, 1, tzinfo=UTC))
        assert not entitled.consume("acme", "tokens", 41)
        entitled.close()
        usage.close()


def test_terms_are_made_once_per_view(tmp_path: Path) -> None:
    with open_(tmp_path) as workspace:
        view = Entitlements(workspace).view()
        newest: list[View | None] = [None]
        terms = ViewTerms(lambda: newest[0], workspace.clock)
        assert terms("acme", "tokens") is None
        newest[0] = view
        assert terms("acme", "tokens") is terms("acme", "tokens")
        assert terms("acme", "nothing") is None


CHILD = """
import os, signal, sys
from metering.recorder import Recorder
from tallybook import Workspace
usage = Recorder(sys.argv[1], ship="none")
entitled = Workspace(sys.argv[1]).checker(usage)
for _ in range(2):
    assert entitled.consume("acme", "calls")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_dead_process_consumed_is_spent_and_the_rest_returns(tmp_path: Path) -> None:
    with open_(tmp_path) as workspace:
        done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], check=False, cwd=Path(__file__).parents[2])
        assert done.returncode == -signal.SIGKILL
    with Workspace(tmp_path) as workspace:
        key = _key_of(workspace, "calls")
        assert _granted(workspace, key) > 2, "two were used, and nobody knows that yet"
        assert workspace.account_leases().settled == 0, "its lease has not expired"
    # Its lease has expired by then; not all of what it recorded is in the lake.
    with Workspace(tmp_path, clock=FixedClock(datetime.now(UTC) + timedelta(hours=1))) as workspace:
        waiting = workspace.account_leases()
        assert (waiting.settled, waiting.waiting) == (0, 1)
        workspace.ship()
        assert workspace.account_leases().settled == 1
        assert _granted(workspace, key) == 2
        assert workspace.account_leases().settled == 0
        usage, entitled = process(workspace)
        assert [bool(entitled.consume("acme", "calls")) for _ in range(39)] == [True] * 38 + [False]
        entitled.close()
        usage.close()


def test_a_window_that_is_over_is_marked_with_what_usage_says(tmp_path: Path) -> None:
    with open_(tmp_path) as workspace:
        usage, entitled = process(workspace)
        assert entitled.consume("acme", "tokens", 60)
        usage.record("tokens", tenant="acme", quantity=50)
        entitled.close()
        ship(workspace, usage)
        usage.close()
        key = _key_of(workspace, "tokens")
    later = FixedClock(datetime(2026, 4, 1, tzinfo=UTC) + GRACE + timedelta(seconds=1))
    with Workspace(tmp_path, clock=later) as workspace:
        done = workspace.account_leases()
        assert done.windows == 1
        assert [(one.key, one.granted, one.metered) for one in done.over_used] == [(key, Decimal(60), Decimal(110))]
        assert workspace.account_leases().windows == 0
    shown = CliRunner().invoke(app, ["-w", str(tmp_path), "maintain", "--json"])
    assert shown.exit_code == 0
    assert '"leases"' in shown.stdout


def test_a_hard_limit_needs_a_meter_that_adds_up(tmp_path: Path) -> None:
    more = """
  - {id: s-more, tenant: acme, plan: big, version: 1, from: 2026-01-01}
plans:
  - name: big
    version: 1
    currency: USD
    entitlements: [{feature: disk, type: metered, meter: disk, quota: 5, limit: hard}]
"""
    root = tmp_path / "catalog"
    workspace = Workspace.init(tmp_path)
    (root / "all.yaml").write_text(CATALOG, encoding="utf-8")
    (root / "more.yaml").write_text(more[more.index("plans:") :], encoding="utf-8")
    with pytest.raises(CatalogInvalid, match="does not add up"):
        workspace.apply()


def _key_of(workspace: Workspace, feature: str):
    from sqlalchemy import select

    from entitlements.books import quotas
    from entitlements.leases import QuotaKey

    with workspace.books.connect() as connection:
        row = connection.execute(select(quotas).where(quotas.c.feature == feature)).one()
    return QuotaKey(row.tenant_id, row.feature, row.window_start, row.window_end)


def _granted(workspace: Workspace, key) -> Decimal:
    from entitlements.leases import LeaseBook

    found = LeaseBook(workspace.books).granted(key)
    assert found is not None
    return found[1]


def test_what_a_dead_process_used_is_taken_from_the_window_that_goes_on_first(tmp_path: Path) -> None:
    """It held leases of two windows, as with two checkers, and the books were away when the old one was to be settled."""
    february, march = (
        QuotaKey("acme", "tokens", datetime(2026, month, 1, tzinfo=UTC), datetime(2026, month + 1, 1, tzinfo=UTC))
        for month in (2, 3)
    )
    with open_(tmp_path, now=datetime(2026, 2, 28, tzinfo=UTC)) as before:
        usage = Recorder(tmp_path, ship="none", clock=before.clock)
        holder = holder_of(usage)()
        LeaseBook(before.books, before.clock).take(february, 100, lease_id="a", holder=holder, needed=10 * BILLIONTHS)
    with Workspace(tmp_path, clock=FixedClock(NOW)) as workspace:
        book = LeaseBook(workspace.books, workspace.clock)
        book.take(march, 100, lease_id="b", holder=holder, needed=10 * BILLIONTHS)
        usage.record("tokens", tenant="acme", quantity=10, event_time=NOW)
        usage.close()
        workspace.ship()
    with Workspace(tmp_path, clock=FixedClock(NOW + timedelta(hours=1))) as later:
        assert later.account_leases().settled == 2
        assert LeaseBook(later.books).granted(march) == (100, 10), "none of it is granted a second time"
