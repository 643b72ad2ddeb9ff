"""Hours of software in a buyer's account, from the lake to the fake AWS Marketplace: all tenants, fractions carried."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from billing_adapters.testing.aws_marketplace_server import MarketplaceFake, serve
from metering.clock import FixedClock
from tallybook import Workspace
from tallybook.errors import BadSettings

BEGIN = datetime(2026, 3, 10, tzinfo=UTC)
SETTINGS = """
[delivery.aws_meter_usage]
from = 2026-03-10
region = "us-east-1"
product_code = "code-1"
instance = "task-1"
address = "{url}"
[delivery.aws_meter_usage.meters]
{meter} = "tok"
"""
USAGE = """tenant_id,meter,quantity,event_time
acme,tokens,0.4000004,2026-03-10T00:10:00Z
nobody-knows-them,tokens,0.2000005,2026-03-10T00:20:00Z
acme,tokens,1,2026-03-10T01:20:00Z
acme,other,9,2026-03-10T01:20:00Z
"""


def test_all_tenants_of_a_workspace_are_one_buyer_and_each_hour_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "task-1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "fake")
    clock = FixedClock(BEGIN + timedelta(hours=1, minutes=14))
    fake = MarketplaceFake(clock)
    fake.workloads.add("task-1", product_code="code-1")
    Workspace.init(tmp_path, clock=clock).close()
    (tmp_path / "catalog" / "all.yaml").write_text("meters: [{name: tokens}, {name: disk, aggregation: max}]\n")
    (tmp_path / "usage.csv").write_text(USAGE)

    def deliver(workspace: Workspace) -> dict[int, Decimal]:
        workspace.deliver(wait=lambda seconds: clock.advance(timedelta(seconds=seconds)))
        told = {}
        for (_, name, at), quantity in fake.workloads.metered.items():
            assert name == "tok"
            told[(datetime.fromisoformat(at) - BEGIN) // timedelta(hours=1)] = quantity
        return told

    with serve(fake) as url:
        (tmp_path / "tallybook.toml").write_text(SETTINGS.format(url=url, meter="tokens"))
        with Workspace(tmp_path, clock=clock) as workspace:
            workspace.apply()
            workspace.import_files([tmp_path / "usage.csv"])
            # The hour is over, but not for long enough to be complete.
            assert deliver(workspace) == {}
            clock.advance(timedelta(minutes=1))
            assert deliver(workspace) == {0: Decimal("0.6")}
            # What was cut, and what came late for an hour that was told, come with the next.
            (tmp_path / "late.csv").write_text(
                "tenant_id,meter,quantity,event_time\nacme,tokens,5,2026-03-10T00:30:00Z\n"
            )
            workspace.import_files([tmp_path / "late.csv"])
            clock.advance(timedelta(hours=1))
            assert deliver(workspace) == {0: Decimal("0.6"), 1: Decimal("6")}
            # An outage of nine hours: what AWS takes no more goes with the first hour that it takes.
            (tmp_path / "more.csv").write_text(
                "tenant_id,meter,quantity,event_time\nacme,tokens,7,2026-03-10T03:30:00Z\n"
            )
            workspace.import_files([tmp_path / "more.csv"])
            clock.advance(timedelta(hours=9))
            told = deliver(workspace)
            assert (sum(told.values()), max(told)) == (Decimal("13.6"), 6)
        (tmp_path / "tallybook.toml").write_text(SETTINGS.format(url=url, meter="disk"))
        with Workspace(tmp_path, clock=clock) as workspace, pytest.raises(BadSettings, match="no sum or count"):
            workspace.deliver()


def test_an_hour_of_all_tenants_is_split_over_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "task-1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "fake")
    clock = FixedClock(BEGIN + timedelta(hours=1, minutes=15))
    fake = MarketplaceFake(clock)
    fake.workloads.add("task-1", product_code="code-1")
    Workspace.init(tmp_path, clock=clock).close()
    (tmp_path / "catalog" / "all.yaml").write_text("meters: [{name: tokens}]\n")
    rows = ["acme,tokens,3,red", "globex,tokens,1,red", "globex,tokens,2,blue", "acme,tokens,1,"]
    lines = ["tenant_id,meter,quantity,team,event_time", *(f"{row},2026-03-10T00:10:00Z" for row in rows)]
    (tmp_path / "usage.csv").write_text("\n".join([*lines, ""]))
    with serve(fake) as url:
        split = '[delivery.aws_meter_usage.allocations]\ntok = {team = "Team"}\n'
        (tmp_path / "tallybook.toml").write_text(SETTINGS.format(url=url, meter="tokens") + split)
        with Workspace(tmp_path, clock=clock) as workspace:
            workspace.apply()
            workspace.import_files([tmp_path / "usage.csv"])
            workspace.deliver(wait=lambda seconds: clock.advance(timedelta(seconds=seconds)))
    assert list(fake.workloads.metered.values()) == [Decimal(7)]
    (call,) = [one for one in fake.calls if "UsageAllocations" in one]
    assert [(one["AllocatedUsageQuantityAsDecimal"], one.get("Tags")) for one in call["UsageAllocations"]] == [
        ("4", [{"Key": "Team", "Value": "red"}]),
        ("2", [{"Key": "Team", "Value": "blue"}]),
        ("1", None),
    ]
