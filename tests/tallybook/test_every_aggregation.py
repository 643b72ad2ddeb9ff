"""Quotas over meters whose use does not add up: the period so far against what is granted now, as checks answer it."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from entitlements.checker import Checker
from metering.clock import FixedClock
from metering.recorder import Recorder
from rating.errors import CatalogInvalid
from tallybook import Workspace
from tallybook.entitlement_views import WorkspaceSource
from tallybook.entitlements import Entitlements
from tests.tallybook.shop import import_text

METERS = """
  - {name: low, aggregation: min}
  - {name: opened, aggregation: first}
  - {name: band, aggregation: percentile, percentile: 90, per_bucket: {length: day}}
  - {name: level, aggregation: time_weighted_sum, events: level}
  - {name: held, aggregation: time_weighted_sum, carry: recurring}
  - {name: hours, aggregation: time_weighted_sum, events: level, per: hour}
  - {name: peak, aggregation: max, per_bucket: {length: day}}
  - {name: mean, aggregation: average}
  - {name: inside, aggregation: unique_count, unique_attribute: user, operation_attribute: op, carry: recurring}
"""
NAMES = ("low", "opened", "band", "level", "held", "hours", "peak", "mean", "inside")
# 99 in February; 40 and 5 on the 2nd of March, 10 on the 12th.
EVENTS = (
    ("99", "2026-02-12T00:00:00Z", "cid", "add"),
    ("40", "2026-03-02T00:00:00Z", "ann", "add"),
    ("5", "2026-03-02T18:00:00Z", "bob", "add"),
    ("10", "2026-03-12T00:00:00Z", "cid", "remove"),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("every")
    held = "".join(
        f"      - {{feature: {name}, type: metered, meter: {name}, quota: 50, overage: blocked}}\n" for name in NAMES
    )
    text = (
        f"meters:{METERS}accounts: [{{id: a, name: A, tenants: [acme]}}]\nplans:\n  - name: pro\n    version: 1\n"
        f"    currency: USD\n    entitlements:\n{held}subscriptions:\n"
        "  - {id: s, tenant: acme, plan: pro, version: 1, from: 2026-01-01}\ngrants:\n"
        "  - {id: g1, tenant: acme, feature: level, amount: 7, effective: 2026-03-05, expires: 2026-03-06}\n"
        "  - {id: g2, tenant: acme, feature: held, amount: 100, effective: 2026-03-15}\n"
    )
    rows = [f"acme,{meter},{quantity},{at},{user},{op}" for meter in NAMES for quantity, at, user, op in EVENTS]
    with Workspace.init(path, clock=FixedClock(datetime(2026, 3, 20, tzinfo=UTC))) as workspace:
        (path / "catalog" / "all.yaml").write_text(text, encoding="utf-8")
        workspace.apply()
        import_text(workspace, "usage.csv", "\n".join(["tenant_id,meter,quantity,event_time,user,op", *rows]) + "\n")
    return path


# Each as (used, limit, left or over) at the 20th: 19 days of March are over.
MARCH_20 = {
    "low": ("5", "50", "45"),
    "opened": ("40", "50", "10"),
    # Of 19 days the 18th smallest: 10; the one with 45 is free.
    "band": ("10", "50", "40"),
    # 40 for 18 hours, 5 until the 12th, 10 for 8 days: (40 x 18 + 5 x 222 + 10 x 192) / 456.
    "level": ("8.223684211", "50", "41.776315789"),
    # (99 x 24 + 139 x 18 + 144 x 222 + 154 x 192) / 456: what February left is held, and each event adds to it.
    "held": ("145.644736842", "150", "4.355263158"),
    "hours": ("3750", "50", "-3700"),
    "peak": ("45", "50", "5"),
    "mean": ("18.333333333", "50", "31.666666667"),
    # ann and bob; cid came in February and left in March.
    "inside": ("2", "50", "48"),
}


@pytest.mark.parametrize("feature", NAMES)
def test_the_period_so_far_is_held_against_what_is_granted(root: Path, feature: str) -> None:
    used, limit, left = map(Decimal, MARCH_20[feature])
    with Workspace(root, clock=FixedClock(datetime(2026, 3, 20, tzinfo=UTC))) as workspace:
        (state,) = (one for one in Entitlements(workspace).states() if one.entitled.entitlement.feature == feature)
    assert (state.used, state.limit, state.remaining, state.overage) == (used, limit, max(left, 0), max(-left, 0))
    assert (state.decision.allowed, state.decision.remaining) == (left > 0, max(left, 0))


def test_checks_answer_the_same(root: Path) -> None:
    source = WorkspaceSource(str(root), clock=FixedClock(datetime(2026, 3, 20, tzinfo=UTC)))
    with Checker(source, refresh_interval_s=3600, stale_after_s=7200) as entitled:
        for feature, row in MARCH_20.items():
            used, limit, left = map(Decimal, row)
            decision = entitled.check("acme", feature)
            assert (decision.used, decision.limit, decision.remaining) == (used, limit, max(left, 0)), feature
            assert decision.allowed == (left > 0)
            assert decision.resets_at == datetime(2026, 4, 1, tzinfo=UTC)


def test_a_reset_begins_anew_but_for_what_is_held(root: Path) -> None:
    """In April nothing happened; what is carried goes on."""
    with Workspace(root, clock=FixedClock(datetime(2026, 4, 11, tzinfo=UTC))) as workspace:
        used = {one.entitled.entitlement.feature: one.used for one in Entitlements(workspace).states()}
    assert used == {**dict.fromkeys(NAMES, Decimal(0)), "held": Decimal(154), "inside": Decimal(2)}


def test_a_grant_raises_the_ceiling_while_it_is_active(root: Path) -> None:
    limits = []
    for day in (4, 5, 6):
        with Workspace(root, clock=FixedClock(datetime(2026, 3, day, tzinfo=UTC))) as workspace:
            limits += [
                one.limit for one in Entitlements(workspace).states() if one.entitled.entitlement.feature == "level"
            ]
    assert limits == [50, 57, 50]


STEPS = """
  - {name: days, aggregation: sum, attributes: [user], per_bucket: {length: day, value: unique_count}}
  - {name: busiest, aggregation: max, per_bucket: {length: day}}
  - {name: thousands, round: {mode: ceil, places: -3}}
  - {name: seconds, attributes: [ms], expression: "ceil(ms / 1000)"}
  - {name: kept, carry: recurring, negative_allowed: true}
  - {name: seen, aggregation: count, attributes: [ms], expression: "ms"}
"""


def open_steps(root: Path, limit: str = "soft") -> Workspace:
    held = [
        f"      - {{feature: {name}, type: metered, meter: {name}, quota: 2000, limit: {limit}, overage: blocked}}\n"
        for name in ("days", "busiest", "thousands", "seconds", "kept", "seen")
    ]
    text = (
        f"meters:{STEPS}accounts: [{{id: a, name: A, tenants: [acme]}}]\nplans:\n  - name: pro\n    version: 1\n"
        f"    currency: USD\n    entitlements:\n{''.join(held)}subscriptions:\n"
        "  - {id: s, tenant: acme, plan: pro, version: 1, from: 2026-01-01}\n"
    )
    workspace = Workspace.init(root, clock=FixedClock(datetime(2026, 3, 20, tzinfo=UTC)))
    (root / "catalog" / "all.yaml").write_text(text, encoding="utf-8")
    workspace.apply()
    return workspace


@pytest.mark.parametrize(
    ("feature", "attributes", "before", "after"),
    [
        # Two events of one user are one day; that two are of one day only the lake knows.
        ("days", {"user": "ann"}, 0, 1),
        ("busiest", {}, 0, 1800),
        ("thousands", {}, 0, 2000),
        # 1,500 ms each, whatever quantity they were recorded with.
        ("seconds", {"ms": 1500}, 0, 4),
        ("kept", {}, 1800, 1800),
        ("seen", {"ms": 5}, 2, 2),
    ],
)
def test_own_use_that_only_the_lake_can_count_shows_with_the_view_that_has_it(
    tmp_path: Path, feature: str, attributes: dict[str, object], before: int, after: int
) -> None:
    with open_steps(tmp_path) as workspace, Recorder(tmp_path, ship="none", clock=workspace.clock) as usage:
        later = FixedClock(datetime(2026, 3, 20, 1, tzinfo=UTC))
        source = WorkspaceSource(str(tmp_path), clock=later)
        with Checker(source, usage, refresh_interval_s=3600, stale_after_s=7200) as entitled:
            assert all(entitled.consume("acme", feature, 900, **attributes) for _ in range(2))
            assert entitled.check("acme", feature).used == before
            usage.seal()
            workspace.ship()
            assert entitled.refresh()
            assert entitled.check("acme", feature).used == after


def test_a_hard_limit_is_not_spent_in_quantities_that_an_expression_works_out_later(tmp_path: Path) -> None:
    with pytest.raises(CatalogInvalid) as refused:
        open_steps(tmp_path, "hard")
    said = str(refused.value)
    assert "'seconds' is worked out when an event comes to the lake" in said
    assert all(f"the use of {name!r} does not add up" in said for name in ("days", "busiest", "thousands", "kept"))
    assert "'seen'" not in said
