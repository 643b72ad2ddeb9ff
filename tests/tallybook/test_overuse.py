"""ENTITLEMENT_OVERUSE: what was used beyond all grants and nobody pays for is a finding of the reconciliation."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from metering.clock import FixedClock
from tallybook import Workspace

CATALOG = """
meters:
  - {name: tokens}
  - {name: disk, aggregation: max}
accounts:
  - {id: a, name: A, tenants: [acme, zoe]}
plans:
  - name: pro
    version: 1
    currency: USD
    prices: [PRICES]
    entitlements:
      - {feature: tokens, type: metered, meter: tokens, quota: 100QUOTA}
      - {feature: disk, type: metered, meter: disk, quota: 50}
subscriptions:
  - {id: s-acme, tenant: acme, plan: pro, version: 1, from: 2026-01-01}
  - {id: s-zoe, tenant: zoe, plan: pro, version: 1, from: 2026-01-01, to: 2026-10-11}
"""
USAGE = """tenant_id,meter,quantity,event_time
acme,tokens,90,2026-09-30T00:00:00Z
acme,tokens,60,2026-10-02T00:00:00Z
acme,tokens,75,2026-10-20T00:00:00Z
zoe,tokens,99,2026-10-05T00:00:00Z
zoe,tokens,2,2026-10-10T23:59:59Z
"""


def found(
    root: Path, prices: str = "", quota: str = "", more: str = "", usage: str = USAGE
) -> list[tuple[object, ...]]:
    workspace = Workspace.init(root, clock=FixedClock(datetime(2026, 11, 2, tzinfo=UTC)))
    text = CATALOG.replace("PRICES", prices).replace("QUOTA", quota)
    (root / "catalog" / "all.yaml").write_text(text + more, encoding="utf-8")
    workspace.apply()
    path = root / "usage.csv"
    path.write_text(usage, encoding="utf-8")
    with workspace:
        workspace.import_files([path])
        findings = workspace.reconcile("2026-10").findings
    return [
        (one.tenant_id, one.meter, one.reason, one.quantity_difference)
        for one in findings
        if one.control_id == "ENTITLEMENT_OVERUSE"
    ]


def test_overage_without_a_price_is_found(tmp_path: Path) -> None:
    assert found(tmp_path) == [
        ("acme", "tokens", "overage_allowed_tokens", Decimal(35)),
        ("zoe", "tokens", "overage_allowed_tokens", Decimal(1)),
    ]


def test_use_beyond_a_limit_that_should_have_stopped_it_is_found(tmp_path: Path) -> None:
    assert [one[2:] for one in found(tmp_path, quota=", overage: blocked")] == [
        ("overage_blocked_tokens", Decimal(35)),
        ("overage_blocked_tokens", Decimal(1)),
    ]


@pytest.mark.parametrize(
    ("price", "unbilled"),
    [
        ("type: unit, unit_price: 1", []),
        ("type: unit, unit_price: 1, included: 100", []),
        ("type: graduated, tiers: [{up_to: 100, unit_price: 0}, {unit_price: 1}]", []),
        # Free up to 120: of the 35 beyond the quota 15 are charged for.
        ("type: graduated, tiers: [{up_to: 120, unit_price: 0}, {unit_price: 1}]", [Decimal(20), Decimal(1)]),
        ("type: package, package_size: 1000, package_price: 5", []),
    ],
)
def test_what_is_charged_for_is_not_found(tmp_path: Path, price: str, unbilled: list[Decimal]) -> None:
    assert [one[3] for one in found(tmp_path, prices=f"{{id: p, meter: tokens, {price}}}")] == unbilled


def test_a_grant_covers_it(tmp_path: Path) -> None:
    more = "grants:\n  - {id: g, tenant: acme, feature: tokens, amount: 30, effective: 2026-10-01}\n"
    assert found(tmp_path, more=more)[0][3] == Decimal(5)


def test_with_daily_resets_the_excess_of_each_day_is_added(tmp_path: Path) -> None:
    usage = (
        USAGE.splitlines()[0]
        + "\n"
        + "".join(
            f"acme,tokens,{quantity},2026-10-0{day}T12:00:00Z\n"
            for day, quantity in ((1, 90), (2, 0), (3, 115), (4, 101))
        )
    )
    assert [one[3] for one in found(tmp_path, quota=", reset: day", usage=usage)] == [Decimal(16)]


def test_a_ceiling_that_was_passed_is_found(tmp_path: Path) -> None:
    usage = USAGE.splitlines()[0] + "\nacme,disk,60,2026-10-02T00:00:00Z\nacme,disk,10,2026-10-03T00:00:00Z\n"
    assert found(tmp_path, usage=usage) == [("acme", "disk", "overage_allowed_disk", Decimal(10))]
