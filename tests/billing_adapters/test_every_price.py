"""No control finds a mistake in what is right: every type of price and every step around it, invoiced and reconciled."""

from __future__ import annotations

from pathlib import Path

import yaml

from metering.clock import FixedClock
from tallybook import Workspace
from tests.rating.test_explain_every_price import CATALOG, MAY, USAGE
from tests.tallybook.shop import import_text


def test_every_price_reconciles(tmp_path: Path) -> None:
    with Workspace.init(tmp_path, clock=FixedClock(MAY)) as workspace:
        (workspace.layout.catalog / "all.yaml").write_text(yaml.safe_dump(CATALOG), encoding="utf-8")
        workspace.apply()
        import_text(workspace, "usage.csv", USAGE)
        for period in ("2026-03", "2026-04"):
            workspace.invoice(period, final=True)
        for period in ("2026-03", "2026-04"):
            statement = workspace.reconcile(period)
            assert statement.is_conserved
            assert [(one.control_id, one.detail) for one in statement.findings if one.amount_likely] == []
