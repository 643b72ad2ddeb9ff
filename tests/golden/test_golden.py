"""Cases that finance can read: each folder is a story, its files in their order the steps.

    catalog.yaml              the terms
    1-usage.csv               is imported
    2-invoice-2026-10.csv     is what invoicing that period must give, line by line, no more and no less
    3-usage.csv               is imported: late, in this case
    4-invoice-2026-11.csv     ...

Numbers are compared as numbers, all other cells as text. A new case needs no code.
"""

from __future__ import annotations

import csv
import shutil
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from metering.clock import FixedClock
from tallybook import Workspace

HERE = Path(__file__).parent
CASES = sorted(path.parent for path in HERE.glob("*/catalog.yaml"))
COLUMNS = ("account", "tenant", "price", "group", "kind", "service_start", "quantity", "amount", "currency")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden(case: Path, tmp_path: Path) -> None:
    with Workspace.init(tmp_path / "workspace", clock=FixedClock(datetime(2027, 6, 1, tzinfo=UTC))) as workspace:
        shutil.copy(case / "catalog.yaml", workspace.layout.catalog / "catalog.yaml")
        workspace.apply()
        for step in sorted(case.glob("[0-9]*.csv")):
            kind = step.stem.split("-", 2)
            if kind[1] == "usage":
                workspace.import_files([step])
            else:
                assert lines_of(workspace, kind[2]) == expected_lines(step), step.name
        assert all(one.matches for one in workspace.verify())


def lines_of(workspace: Workspace, period: str) -> list[tuple[object, ...]]:
    invoices = workspace.invoice(period, final=True).invoices
    return sorted(
        (
            invoice.account_id,
            line.tenant_id,
            line.price_id,
            line.group_key,
            line.kind,
            line.service_start.date().isoformat(),
            line.quantity,
            line.amount,
            line.currency,
        )
        for invoice in invoices
        for line in invoice.lines
    )


def expected_lines(path: Path) -> list[tuple[object, ...]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return sorted(
        tuple(Decimal(row[name]) if name in {"quantity", "amount"} else row[name] for name in COLUMNS) for row in rows
    )
