"""The demo plants leaks, and the witness and the controls find them: units and money to the cent."""

from __future__ import annotations

import io
from decimal import Decimal
from typing import TYPE_CHECKING

from rich.console import Console

from tallybook import Workspace
from tallybook.demo import leaks, story
from tallybook.demo.workload import requests_of, tenant_name, work

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_demo_finds_what_it_planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    monkeypatch.setattr(story, "judge", lambda report: kept.append(report) or leaks.judge(report))
    out = Console(file=io.StringIO(), width=200)
    assert story.run_demo(tmp_path / "demo", events=10_000, out=out)
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert "NOT FOUND" not in text
    [report] = kept
    [gateway, unsold] = leaks.judge(report)
    # 1,200 requests are 12 packages at 0.25, whatever else the tenant used.
    assert (gateway.planted, gateway.found, gateway.amount) == (1200, 1200, Decimal("3.00"))
    assert f"{leaks.NEVER_METERED}, never metered" in text
    assert unsold.planted == unsold.found > 0
    nobody_sells = [one for one in report.findings if (one.control_id, one.meter) == ("UNPRICED_METER", leaks.UNSOLD)]
    in_usd = [one for one in nobody_sells if one.currency == "USD"]
    assert unsold.amount == sum((one.quantity_difference for one in in_usd), Decimal(0)) * Decimal("0.02")
    assert report.statement.is_conserved
    # Without the gateway's count nobody knows.
    with Workspace(tmp_path / "demo") as workspace:
        blind = workspace.report("2026-10")
    assert "WITNESS_RATIO" not in {one.control_id for one in blind.statement.findings}


def test_the_gateway_counts_the_requests_that_were_made() -> None:
    names = {tenant_name(number) for number in leaks.REGION}
    made = [one for one in work(0, 1, 20_000) if one.meter == "api_requests" and one.tenant in names]
    assert list(requests_of(leaks.REGION, 20_000)) == [(one.tenant, one.event_time) for one in made]
    assert made
