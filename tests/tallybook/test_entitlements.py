"""Entitlements of a whole workspace: plans, overrides, grants and usage at an instant, exactly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from entitlements.checker import Checker
from entitlements.decisions import Decision
from metering.clock import FixedClock
from metering.periods import CALENDAR_ANCHOR, BillingCycle
from metering.recorder import Recorder
from rating.entitled_use import EntitlementState
from rating.errors import CatalogInvalid, NotFound, PlanVersionChanged
from tallybook import Workspace
from tallybook.entitlement_views import WorkspaceSource
from tallybook.entitlements import Entitlements

CATALOG = """
meters:
  - {name: tokens}
  - {name: calls, aggregation: count}
  - {name: users, aggregation: unique_count, unique_attribute: user}
  - {name: disk, aggregation: max}
  - {name: level, aggregation: last}
  - {name: load, aggregation: average}
accounts:
  - {id: a, name: A, tenants: [acme, zoe, two, new]}
plans:
  - name: pro
    version: 1
    currency: USD
    entitlements:
      - {feature: sso, type: boolean}
      - {feature: seats, type: static, value: "5", value_type: integer}
      - {feature: tokens, type: metered, meter: tokens, quota: 100, overage: blocked}
      - {feature: users, type: metered, meter: users, quota: 3}
      - {feature: disk, type: metered, meter: disk, quota: 50}
      - {feature: level, type: metered, meter: level, quota: 50}
      - {feature: load, type: metered, meter: load, quota: 50}
      - {feature: calls, type: metered, meter: calls}
  - name: addon
    version: 1
    currency: USD
    entitlements:
      - {feature: tokens, type: metered, meter: tokens, quota: 30}
      - {feature: seats, type: static, value: "50", value_type: integer}
subscriptions:
"""
ACME = "  - {id: s-acme, tenant: acme, plan: pro, version: 1, from: 2026-01-01"


NOW = datetime(2026, 3, 20, tzinfo=UTC)


def march(day: int, hour: int = 0) -> datetime:
    return datetime(2026, 3, day, hour, tzinfo=UTC)


def open_(root: Path, subscriptions: str, usage: str = "", now: datetime = NOW, text: str = CATALOG) -> Workspace:
    workspace = Workspace.init(root, clock=FixedClock(now))
    (root / "catalog" / "all.yaml").write_text(text + subscriptions, encoding="utf-8")
    workspace.apply()
    if usage:
        path = root / "usage.csv"
        rows = [f"{number},{line}" for number, line in enumerate(usage.split())]
        path.write_text(
            "\n".join(["idempotency_key,tenant_id,meter,quantity,event_time,user", *rows]) + "\n", encoding="utf-8"
        )
        workspace.import_files([path])
    return workspace


def state_of(workspace: Workspace, feature: str, at: datetime | None = None, tenant: str = "acme") -> EntitlementState:
    states = Entitlements(workspace, at, tenant=tenant).states()
    return next(one for one in states if one.entitled.entitlement.feature == feature)


def left(state: EntitlementState) -> tuple[Any, ...]:
    return state.limit, state.used, state.remaining, state.overage


TOKENS = """
acme,tokens,70,2026-02-10T00:00:00Z,
acme,tokens,60,2026-03-02T00:00:00Z,
acme,tokens,55,2026-03-12T00:00:00Z,
"""


def test_a_quota_is_full_at_each_reset_and_overage_is_forgiven(tmp_path: Path) -> None:
    with open_(tmp_path, ACME + "}\n", TOKENS) as workspace:
        state = state_of(workspace, "tokens")
        assert left(state) == (100, 115, 0, 15)
        assert state.decision.reason == "quota_exhausted"
        assert state.resets_at == datetime(2026, 4, 1, tzinfo=UTC)
        assert left(state_of(workspace, "tokens", march(12))) == (100, 60, 40, 0), (
            "what is used at the instant is not yet"
        )
        assert left(state_of(workspace, "tokens", march(1))) == (100, 0, 100, 0)


def test_overage_that_is_kept_is_paid_by_the_next_quota(tmp_path: Path) -> None:
    override = "\n    entitlements: [{feature: tokens, type: metered, meter: tokens, quota: 50, keep_overage: true}]\n"
    subscription = "  - id: s-acme\n    tenant: acme\n    plan: pro\n    version: 1\n    from: 2026-01-01" + override
    with open_(tmp_path, subscription, TOKENS) as workspace:
        # February: 70 of 50, 20 over. March: 20 are paid at once, 60 + 55 used of 30: 85 over.
        state = state_of(workspace, "tokens")
        assert left(state) == (50, 115, 0, 85)
        assert state.entitled.source == "subscription s-acme"
        assert state.decision.allowed, "the override does not block"


def test_top_ups_work_on_plan_quotas_and_survive_resets(tmp_path: Path) -> None:
    grants = (
        "grants:\n"
        "  - {id: g1, tenant: acme, feature: tokens, amount: 40, effective: 2026-02-01}\n"
        "  - {id: g2, tenant: acme, feature: tokens, amount: 5, effective: 2026-03-15, expires: 2026-03-18}\n"
    )
    with open_(tmp_path, ACME + "}\n" + grants, TOKENS) as workspace:
        # The quota (100) and 15 of g1 paid for March; g2 came and went unused.
        state = state_of(workspace, "tokens")
        assert left(state) == (140, 115, 25, 0)
        assert {one.grant.id: one.balance for one in state.grants} == {"s-acme/2026-01-01": 0, "g1": 25, "g2": 0}
        assert left(state_of(workspace, "tokens", march(16))) == (145, 115, 30, 0)
        burned = [segment.burned for segment in state.segments if segment.burned]
        assert burned[-1] == {"s-acme/2026-01-01": Decimal(100), "g1": Decimal(15)}


def test_a_rollover_is_what_was_left_for_one_more_period(tmp_path: Path) -> None:
    override = "\n    entitlements: [{feature: tokens, type: metered, meter: tokens, quota: 100, rollover_max: 20}]\n"
    subscription = "  - id: s-acme\n    tenant: acme\n    plan: pro\n    version: 1\n    from: 2026-02-01" + override
    with open_(tmp_path, subscription, "acme,tokens,70,2026-02-10T00:00:00Z,\n") as workspace:
        assert left(state_of(workspace, "tokens", march(5))) == (120, 0, 120, 0), "30 were left, 20 roll over"
        april = datetime(2026, 4, 5, tzinfo=UTC)
        assert left(state_of(workspace, "tokens", april)) == (120, 0, 120, 0), "20 of March's, none of February's"


@pytest.mark.parametrize(
    ("feature", "used", "remaining"),
    [("users", 2, 1), ("disk", 40, 10), ("level", 10, 40), ("load", 25, 25)],
)
def test_every_aggregation_can_be_limited(tmp_path: Path, feature: str, used: int, remaining: int) -> None:
    usage = f"""
acme,{feature},40,2026-03-02T00:00:00Z,ann
acme,{feature},10,2026-03-12T00:00:00Z,bob
acme,{feature},99,2026-02-12T00:00:00Z,cid
"""
    grants = f"grants:\n  - {{id: g, tenant: acme, feature: {feature}, amount: 1, effective: 2026-03-05, expires: 2026-03-06}}\n"
    if feature == "users":
        usage += "acme,users,1,2026-03-12T00:00:00Z,ann\n"
    with open_(tmp_path, ACME + "}\n" + grants, usage) as workspace:
        state = state_of(workspace, feature)
        assert (state.used, state.remaining) == (used, remaining)


def test_unlimited_use_is_counted(tmp_path: Path) -> None:
    usage = "acme,calls,1,2026-03-02T00:00:00Z,\nacme,calls,1,2026-03-03T00:00:00Z,\n"
    with open_(tmp_path, ACME + "}\n", usage) as workspace:
        assert left(state_of(workspace, "calls")) == (None, 2, None, 0)


def test_several_subscriptions_add_their_quotas_up(tmp_path: Path) -> None:
    both = ACME + "}\n  - {id: s-more, tenant: acme, plan: addon, version: 1, from: 2026-03-10}\n"
    with open_(tmp_path, both, TOKENS) as workspace:
        assert left(state_of(workspace, "tokens", march(9))) == (100, 60, 40, 0)
        assert left(state_of(workspace, "tokens", march(11))) == (130, 60, 70, 0)
        assert state_of(workspace, "seats").decision.value == 50, "of a value the newest subscription decides"


def test_an_override_holds_for_its_time_and_for_the_whole_period_in_which_it_begins(tmp_path: Path) -> None:
    override = (
        "\n    entitlements:\n"
        "      - {feature: sso, type: boolean, enabled: false, from: 2026-03-10, to: 2026-03-20}\n"
        "      - {feature: tokens, type: metered, meter: tokens, quota: 200, from: 2026-03-10}\n"
    )
    subscription = "  - id: s-acme\n    tenant: acme\n    plan: pro\n    version: 1\n    from: 2026-01-01" + override
    with open_(tmp_path, subscription, TOKENS) as workspace:
        reasons = [state_of(workspace, "sso", march(day)).decision.reason for day in (9, 10, 19, 20)]
        assert reasons == ["granted", "switched_off", "switched_off", "granted"]
        assert left(state_of(workspace, "tokens", march(9))) == (100, 60, 40, 0)
        assert left(state_of(workspace, "tokens", march(10))) == (200, 60, 140, 0)


def test_a_plan_change_and_a_cancellation_take_effect_at_their_instant(tmp_path: Path) -> None:
    both = (
        ACME + ", to: '2026-03-10T09:00:00Z'}\n"
        "  - {id: s-new, tenant: acme, plan: addon, version: 1, from: '2026-03-10T09:00:00Z', to: 2026-03-15}\n"
    )
    with open_(tmp_path, both, TOKENS) as workspace:
        assert state_of(workspace, "tokens", march(10, 8)).limit == 100
        assert left(state_of(workspace, "tokens", march(10, 9))) == (30, 0, 30, 0)
        gone = Entitlements(workspace, march(15), tenant="acme")
        assert gone.states() == []
        assert "tokens" in gone.view().tenants["acme"].elsewhen


def test_a_view_says_what_the_states_say(tmp_path: Path) -> None:
    both = (
        ACME
        + "}\n"
        + "".join(
            f"  - {{id: s-{name}, tenant: {name}, plan: pro, version: 1, from: '{start}'}}\n"
            for name, start in (("zoe", "2026-02-11T05:00:00Z"), ("two", "2026-01-01"), ("new", "2026-03-10"))
        )
    )
    grants = "grants:\n  - {id: g1, tenant: two, feature: tokens, amount: 40, effective: 2026-02-01}\n"
    usage = (
        TOKENS
        + TOKENS.replace("acme", "two")
        + TOKENS.replace("acme", "new")
        + "acme,calls,1,2026-03-02T00:00:00Z,\nacme,disk,60,2026-03-02T00:00:00Z,\n"
    )
    with open_(tmp_path, both + grants, usage) as workspace:
        found = Entitlements(workspace)
        view = found.view()
        assert view.tenants["acme"].rules is view.tenants["zoe"].rules, "what is the same is held once"
        for state in found.states():
            tenant, said = state.entitled.tenant, state.decision
            held = view.tenants[tenant]
            standing = held.standing(tenant, held.rules[said.feature])
            got = Decision(True, "granted", standing)
            assert (got.limit, got.used, got.remaining, got.overage, got.value, got.source) == (
                said.limit, said.used, said.remaining, said.overage, said.value, said.source,
            )  # fmt: skip
            assert got.resets_at == state.resets_at or standing.limit is None


def test_history_is_one_row_per_whole_window(tmp_path: Path) -> None:
    grants = "grants:\n  - {id: g, tenant: acme, feature: tokens, amount: 50, effective: 2026-03-03T12:00:00Z}\n"
    with open_(tmp_path, ACME + "}\n" + grants, TOKENS) as workspace:
        days = BillingCycle("day", CALENDAR_ANCHOR)
        rows = Entitlements(workspace, march(20)).history("acme", "tokens", march(1, 6), march(5), days)
        assert [(one.start.day, one.usage, one.balance_at_start) for one in rows] == [
            (2, 60, 100), (3, 0, 40), (4, 0, 90),
        ]  # fmt: skip
        assert Entitlements(workspace).history("acme", "tokens", march(1, 6), march(1, 18), days) == []
        long_ago = datetime(2025, 3, 1, tzinfo=UTC)
        assert Entitlements(workspace).history("acme", "tokens", long_ago, long_ago + timedelta(days=3), days) == []
        with pytest.raises(NotFound, match="'sso'"):
            Entitlements(workspace).history("acme", "sso", march(1), march(5), days)


def test_history_of_a_ceiling_is_its_aggregate_window_by_window(tmp_path: Path) -> None:
    """Use of a peak is the peak of the window; what is left is what the peak since the last reset leaves."""
    grants = "grants:\n  - {id: g, tenant: acme, feature: disk, amount: 5, effective: 2026-03-04}\n"
    peaks = "".join(f"acme,disk,{size},2026-03-{day:02}T06:00:00Z,\n" for day, size in ((1, 20), (2, 45), (3, 30)))
    with open_(tmp_path, ACME + "}\n" + grants, peaks) as workspace:
        days = BillingCycle("day", CALENDAR_ANCHOR)
        rows = Entitlements(workspace, march(20)).history("acme", "disk", march(1), march(6), days)
        assert [(one.start.day, one.usage, one.balance_at_start) for one in rows] == [
            (1, 20, 50), (2, 45, 30), (3, 30, 5), (4, 0, 10), (5, 0, 10),
        ]  # fmt: skip
        # A reset forgets the peak.
        april = Entitlements(workspace, datetime(2026, 4, 3, tzinfo=UTC))
        [first, *_] = april.history("acme", "disk", datetime(2026, 4, 1, tzinfo=UTC), april.at, days)
        assert (first.usage, first.balance_at_start) == (0, 55)


def test_a_checker_over_a_workspace(tmp_path: Path) -> None:
    with open_(tmp_path, ACME + "}\n", "acme,tokens,60,2026-03-02T00:00:00Z,\n") as workspace:
        usage = Recorder(tmp_path, ship="none", clock=FixedClock(march(20)))
        source = WorkspaceSource(str(tmp_path), clock=FixedClock(march(20, 1)))
        with Checker(source, usage, refresh_interval_s=3600, stale_after_s=7200) as entitled:
            assert entitled.check("acme", "seats").value == 5
            assert entitled.consume("acme", "tokens", 30).remaining == 10
            assert not entitled.consume("acme", "tokens", 11)
            assert entitled.check("nobody", "sso").reason == "no_entitlement"
            usage.seal()
            workspace.ship()
            assert entitled.refresh()
            assert entitled.check("acme", "tokens").used == 90, "in the lake now, and counted once"
        usage.close()


def test_what_was_granted_to_nobody_or_for_nothing_is_refused(tmp_path: Path) -> None:
    grants = "grants:\n  - {id: g, tenant: acme, feature: sso, amount: 1, effective: 2026-03-01}\n"
    with pytest.raises(CatalogInvalid, match="has a metered entitlement to 'sso'"):
        open_(tmp_path, ACME + "}\n" + grants)


def test_the_command_shows_what_is_left_of_each_grant(tmp_path: Path) -> None:
    import json

    from typer.testing import CliRunner

    from tallybook.cli import app

    grants = "grants:\n  - {id: g1, tenant: acme, feature: tokens, amount: 40, effective: 2026-02-01}\n"
    open_(tmp_path, ACME + "}\n" + grants, TOKENS).close()
    asked = ["-w", str(tmp_path), "entitlements", "--tenant", "acme", "--at"]
    shown = CliRunner().invoke(app, [*asked, "2026-03-20"])
    assert shown.exit_code == 0, shown.output
    assert "g1" in shown.output
    said = json.loads(CliRunner().invoke(app, [*asked, "2026-03-20T00:00:00Z", "--json"]).stdout)
    tokens = next(one for one in said["entitlements"] if one["feature"] == "tokens")
    assert (tokens["limit"], tokens["used"], tokens["remaining"], tokens["reason"]) == (
        "140",
        "115",
        "25",
        "within_quota",
    )
    assert [(one["id"], one["balance"]) for one in tokens["grants"]] == [("s-acme/2026-01-01", "0"), ("g1", "25")]
    assert tokens["segments"][-1]["overage"] == "0"
    assert CliRunner().invoke(app, [*asked, "soon"]).exit_code == 2


CHANGED = """  - id: s-acme
    tenant: acme
    plan: pro
    version: 1
    from: 2026-01-01
    changes: [{from: "2026-03-10T09:00:00Z", plan: addon, version: 1}]
"""


def test_a_subscription_that_changes_its_plan_is_entitled_by_the_new_one(tmp_path: Path) -> None:
    """A change is a reset: the new plan's quota is full, and what was on top goes on."""
    grants = "grants:\n  - {id: g1, tenant: acme, feature: tokens, amount: 40, effective: 2026-02-01}\n"
    usage = "acme,tokens,110,2026-03-02T00:00:00Z,\nacme,tokens,35,2026-03-12T00:00:00Z,\n"
    with open_(tmp_path, CHANGED + grants, usage) as workspace:
        assert left(state_of(workspace, "tokens", march(10, 8))) == (140, 110, 30, 0)
        assert state_of(workspace, "sso", march(10, 8)).decision.allowed
        assert left(state_of(workspace, "tokens", march(10, 9))) == (60, 0, 60, 0), "30 of the new plan, 30 of g1"
        assert left(state_of(workspace, "tokens", march(13))) == (60, 35, 25, 0)
        assert state_of(workspace, "seats", march(10, 9)).decision.value == 50
        later = Entitlements(workspace, march(10, 9), tenant="acme")
        assert "sso" not in {state.entitled.entitlement.feature for state in later.states()}
        assert "sso" in later.view().tenants["acme"].elsewhen


@pytest.mark.parametrize("gap", ["", "acme,tokens,20,2026-03-11T00:00:00Z,\n"], ids=["adjacent", "with use in between"])
def test_what_was_bought_on_top_is_spent_once_whatever_the_subscription(tmp_path: Path, gap: str) -> None:
    """One subscription ends, another begins, at once or later. What nobody was entitled to burns nothing."""
    begins = "2026-03-10" if not gap else "2026-03-12"
    both = (
        ACME
        + f", to: 2026-03-10}}\n  - {{id: s-new, tenant: acme, plan: addon, version: 1, from: {begins}}}\n"
        + "grants:\n  - {id: g1, tenant: acme, feature: tokens, amount: 40, effective: 2026-02-01}\n"
    )
    usage = "acme,tokens,110,2026-03-02T00:00:00Z,\n" + gap + "acme,tokens,35,2026-03-13T00:00:00Z,\n"
    with open_(tmp_path, both, usage) as workspace:
        assert left(state_of(workspace, "tokens", march(12))) == (60, 0, 60, 0)
        assert left(state_of(workspace, "tokens", march(14))) == (60, 35, 25, 0)


def test_what_a_further_subscription_paid_stays_paid_when_it_is_over(tmp_path: Path) -> None:
    both = ACME + "}\n  - {id: s-more, tenant: acme, plan: addon, version: 1, from: 2026-03-01, to: 2026-03-15}\n"
    with open_(tmp_path, both, TOKENS) as workspace:
        # 115 of 100 and 30; then the 30 are over, 15 of them used.
        assert left(state_of(workspace, "tokens", march(14))) == (130, 115, 15, 0)
        assert left(state_of(workspace, "tokens", march(16))) == (115, 115, 0, 0)


def test_use_without_a_limit_is_not_taken_from_what_was_bought(tmp_path: Path) -> None:
    unlimited = "{feature: tokens, type: metered, meter: tokens, from: 2026-02-01, to: 2026-03-01}"
    subscription = (
        "  - id: s-acme\n    tenant: acme\n    plan: pro\n    version: 1\n    from: 2026-01-01\n"
        f"    entitlements: [{unlimited}]\n"
        "grants:\n  - {id: g1, tenant: acme, feature: tokens, amount: 40, effective: 2026-01-01}\n"
    )
    usage = "acme,tokens,500,2026-02-10T00:00:00Z,\nacme,tokens,110,2026-03-02T00:00:00Z,\n"
    with open_(tmp_path, subscription, usage) as workspace:
        assert left(state_of(workspace, "tokens", march(3))) == (140, 110, 30, 0)


def test_overage_is_kept_by_the_plan_that_says_so_and_not_over_a_change(tmp_path: Path) -> None:
    keeps = "{feature: tokens, type: metered, meter: tokens, quota: 50, keep_overage: true, from: 2026-01-01}"
    both = (
        "  - id: s-acme\n    tenant: acme\n    plan: pro\n    version: 1\n    from: 2026-01-01\n    to: 2026-03-10\n"
        f"    entitlements: [{keeps}]\n"
        "  - {id: s-new, tenant: acme, plan: addon, version: 1, from: 2026-03-10}\n"
        "grants:\n  - {id: g1, tenant: acme, feature: tokens, amount: 5, effective: 2026-03-09}\n"
    )
    with open_(tmp_path, both, TOKENS) as workspace:
        # February: 20 over. March: they are paid, 60 used of 30: 30 over, 5 of them paid by g1 on the 9th.
        assert left(state_of(workspace, "tokens", march(9, 1))) == (55, 60, 0, 25)
        assert left(state_of(workspace, "tokens", march(11))) == (30, 0, 30, 0)


@pytest.mark.parametrize(("until", "balance"), [("2026-03-05", 5), ("2026-03-02T13:00:00Z", 0)])
def test_use_that_is_taken_back_can_be_used_again(tmp_path: Path, until: str, balance: int) -> None:
    """10 of 10, then 5 back: the quota has them again, or (where a gift ended in between) what is over is below zero."""
    catalog = CATALOG.replace("{name: calls, aggregation: count}", "{name: calls, negative_allowed: true}").replace(
        "{feature: calls, type: metered, meter: calls}",
        "{feature: calls, type: metered, meter: calls, quota: 10, overage: blocked}",
    )
    gift = "{id: gift, tenant: acme, feature: calls, amount: 0.5, effective: '2026-02-01', expires: 'UNTIL', priority: 200}"
    grants = "grants:\n  - " + gift.replace("UNTIL", until) + "\n"
    usage = "acme,calls,10,2026-03-02T00:00:00Z,\nacme,calls,-5,2026-03-03T00:00:00Z,\n"
    with open_(tmp_path, ACME + "}\n" + grants, usage, text=catalog) as workspace:
        state = state_of(workspace, "calls")
        assert (state.used, state.remaining, state.overage) == (5, balance, balance - 5)
        assert (state.decision.remaining, state.decision.reason) == (5, "within_quota")
        held = Entitlements(workspace).view().tenants["acme"]
        assert Decision(True, "granted", held.standing("acme", held.rules["calls"])).remaining == 5


def test_quantities_of_any_size_are_exact(tmp_path: Path) -> None:
    most = "12345678901234567890123456789.123456789"
    grants = f"grants:\n  - {{id: g1, tenant: acme, feature: tokens, amount: '{most}', effective: 2026-03-01}}\n"
    with open_(tmp_path, ACME + "}\n" + grants, f"acme,tokens,{most},2026-03-02T00:00:00Z,\n") as workspace:
        assert left(state_of(workspace, "tokens")) == (
            Decimal("12345678901234567890123456889.123456789"), Decimal(most), 100, 0,
        )  # fmt: skip


def test_a_grant_that_is_voided_is_gone_and_what_it_paid_stays_paid(tmp_path: Path) -> None:
    """Of two top-ups the one that expires burns first; that the other is voided later changes nothing of what burned before."""
    grants = (
        "grants:\n"
        "  - {id: g1, tenant: acme, feature: tokens, amount: 40, effective: 2026-02-01VOIDED}\n"
        "  - {id: g2, tenant: acme, feature: tokens, amount: 40, effective: 2026-02-02, expires: 2026-03-25}\n"
    )
    voided = grants.replace("VOIDED", ", voided: 2026-03-15")
    usage = "acme,tokens,110,2026-03-02T00:00:00Z,\nacme,tokens,35,2026-03-16T00:00:00Z,\n"
    with open_(tmp_path, ACME + "}\n" + grants.replace("VOIDED", ""), usage) as workspace:
        before = state_of(workspace, "tokens", march(14))
        (tmp_path / "catalog" / "all.yaml").write_text(CATALOG + ACME + "}\n" + voided, encoding="utf-8")
        workspace.apply()
        assert left(state_of(workspace, "tokens", march(14))) == left(before) == (180, 110, 70, 0)
        state = state_of(workspace, "tokens")
        # 30 of g2 paid for the 35; g1 went with all of its 40.
        assert left(state) == (140, 145, 0, 5)
        assert {one.grant.id: one.balance for one in state.grants if one.grant.id[0] == "g"} == {"g1": 0, "g2": 0}
        (tmp_path / "catalog" / "all.yaml").write_text(CATALOG + ACME + "}\n", encoding="utf-8")
        with pytest.raises(PlanVersionChanged, match="put it back and write voided"):
            workspace.apply()


# The plan is in the zone of Paris, the subscription began there on the 31st of January at ten; it is one in the morning.
@pytest.mark.parametrize(
    ("reset", "anchor", "last", "following"),
    [
        ("day", "calendar", "2026-03-19T23:00:00Z", "2026-03-20T23:00:00Z"),
        ("week", "calendar", "2026-03-15T23:00:00Z", "2026-03-22T23:00:00Z"),
        ("month", "calendar", "2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z"),
        ("quarter", "calendar", "2026-01-31T09:00:00Z", "2026-03-31T22:00:00Z"),
        ("year", "calendar", "2026-01-31T09:00:00Z", "2026-12-31T23:00:00Z"),
        ("day", "subscription", "2026-03-19T09:00:00Z", "2026-03-20T09:00:00Z"),
        ("week", "subscription", "2026-03-14T09:00:00Z", "2026-03-21T09:00:00Z"),
        # From the 28th of February to the 31st of March, in summer time.
        ("month", "subscription", "2026-02-28T09:00:00Z", "2026-03-31T08:00:00Z"),
        ("quarter", "subscription", "2026-01-31T09:00:00Z", "2026-04-30T08:00:00Z"),
        ("year", "subscription", "2026-01-31T09:00:00Z", "2027-01-31T09:00:00Z"),
        ("never", "", "2026-01-31T09:00:00Z", None),
    ],
)
def test_a_quota_is_reset_by_the_calendar_or_the_anniversary(
    tmp_path: Path, reset: str, anchor: str, last: str, following: str | None
) -> None:
    """What was used an instant before the last reset is gone, what was used at it counts."""
    more = f", reset: {reset}" + (f", reset_anchor: {anchor}" if anchor else "")
    catalog = CATALOG.replace("quota: 100, overage: blocked", f"quota: 100{more}").replace(
        "currency: USD\n", "currency: USD\n    billing_period: {timezone: Europe/Paris}\n", 1
    )
    instant = datetime.fromisoformat(last) - timedelta(microseconds=1)
    usage = f"acme,tokens,30,{instant:%Y-%m-%dT%H:%M:%S.%fZ},\nacme,tokens,2,{last},\n"
    subscription = ACME.replace("2026-01-01", "'2026-01-31T10:00:00+01:00'") + "}\n"
    with open_(tmp_path, subscription, usage, text=catalog) as workspace:
        state = state_of(workspace, "tokens")
        assert left(state) == (100, 2, 98, 0)
        assert state.resets_at == (None if following is None else datetime.fromisoformat(following))
        held = Entitlements(workspace).view().tenants["acme"]
        assert Decision(True, "granted", held.standing("acme", held.rules["tokens"])).resets_at == state.resets_at
