"""A lake that is not the one the books were made from: nobody is credited for it, and everybody who looks is told."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from metering.clock import FixedClock
from metering.errors import LakeDamaged
from tallybook import Workspace
from tallybook.doctor import guarded
from tallybook.doctor_workspace import CHECKS
from tallybook.runner import Runner
from tests.tallybook.shop import DECEMBER, NOVEMBER, USAGE, import_text, open_shop

MORE = """tenant_id,meter,quantity,event_time,idempotency_key,direction
acme,tokens,80,2026-10-30T10:00:00Z,more1,output
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace whose October is invoiced, with the lake as it was before the last import beside it."""
    root = tmp_path_factory.mktemp("made") / "shop"
    with open_shop(root, now=NOVEMBER) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        shutil.copytree(workspace.layout.lake, root.parent / "older")
        import_text(workspace, "more.csv", MORE)
        workspace.layout.settings_file.write_text("[run]\nfrom = 2026-10-01\n", encoding="utf-8")
        workspace.invoice("2026-10", final=True)
    return root


@pytest.fixture(params=["deleted", "older"])
def shop(made: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    root = shutil.copytree(made, tmp_path / "shop")
    shutil.move(root / "lake", tmp_path / "whole")
    if request.param == "older":
        shutil.copytree(made.parent / "older", root / "lake")
    return root


def test_nothing_is_invoiced_from_it_until_it_is_restored(shop: Path) -> None:
    with Workspace(shop, clock=FixedClock(DECEMBER)) as workspace:
        before = workspace.invoices()
        for act in (
            lambda: workspace.invoice("2026-11", final=True),
            lambda: workspace.invoice("2026-11"),
            lambda: workspace.close_period("2026-11"),
            workspace.correct,
            workspace.invoice_thresholds,
            lambda: workspace.report("2026-10"),
        ):
            with pytest.raises(LakeDamaged, match=r"the lake is not whole: .*; mount or restore the lake"):
                act()
        assert workspace.invoices() == before
        shutil.rmtree(shop / "lake", ignore_errors=True)
        shutil.move(shop.parent / "whole", shop / "lake")
    with Workspace(shop, clock=FixedClock(DECEMBER)) as workspace:
        made = workspace.invoice("2026-11", final=True).invoices
        # Two fees of 49.00, and no credit for what was used in October.
        assert sorted(str(one.total) for one in made) == ["49.00", "49.00"]
        assert all(one.matches for one in workspace.verify())


def test_the_doctor_and_what_runs_by_itself_say_so(shop: Path) -> None:
    with Workspace(shop, clock=FixedClock(datetime(2026, 12, 2, tzinfo=UTC))) as workspace:
        found = guarded("lake of the books", dict(CHECKS)["lake of the books"], workspace)
        assert found.result == "fail"
        assert "the lake is not whole" in found.what
        runs = {one.step: one for one in Runner(workspace).run_due()}
        assert runs["close"].outcome == "failed"
        assert "the lake is not whole" in runs["close"].detail
        assert runs["ship"].outcome == "done"
        assert not [one for one in workspace.invoices("2026-11") if one.status == "final"]
