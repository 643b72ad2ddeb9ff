"""Producers and shippers are killed; what they leave is invoiced, corrected, and reconciled: nothing is unexplained.

Enters: journals of processes that died anywhere. Checked: rows, quantity and money of every equation, against what each
process acknowledged and what is in the lake, counted in plain Python.
"""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from metering.clock import FixedClock
from tallybook import Workspace
from tests.crash.test_killed_producer import kill_at_random
from tests.crash.test_killed_shipper import Killed, ship_until
from tests.crash.workspace import arrived, journal_is_empty, ship_all

UNIT_PRICE = Decimal("0.0125")


def terms_of_sale(tenants: list[str]) -> str:
    """Return a catalog in which all tenants but the last have a subscription. JSON is YAML."""
    return json.dumps(
        {
            "meters": [{"name": "tokens", "attributes": ["step"]}],
            "plans": [
                {
                    "name": "pro", "version": 1, "currency": "USD",
                    "prices": [{"id": "tokens", "type": "unit", "meter": "tokens", "unit_price": str(UNIT_PRICE)}],
                }
            ],
            "accounts": [{"id": "payer", "name": "Payer", "tenants": tenants}],
            "subscriptions": [
                {"id": f"sub-{tenant}", "tenant": tenant, "plan": "pro", "version": 1, "from": "2026-01-01"}
                for tenant in tenants[:-1]
            ],
        }
    )  # fmt: skip


def lived_and_died(root: Path, seed: int, kills: int) -> dict[str, int]:
    """Kill producers, and in between shippers before one of their steps. Return what each tenant acknowledged at least."""
    chance = random.Random(seed)
    acknowledged: dict[str, int] = {}
    for run in range(kills):
        acknowledged |= kill_at_random(root, "record", run, chance, threads=1 + run % 2)
        if run % 2:
            with pytest.raises(Killed):
                ship_until(root, chance.randrange(10))
    ship_all(root)
    assert journal_is_empty(root)
    return acknowledged


def test_what_dead_processes_leave_is_conserved_to_the_cent(tmp_path: Path) -> None:
    Workspace.init(tmp_path).close()
    began = datetime.now(UTC)
    acknowledged = lived_and_died(tmp_path, seed=7, kills=6)
    # Two, if it runs while a month ends.
    months = sorted({at.strftime("%Y-%m") for at in (began, datetime.now(UTC))})
    held = arrived(tmp_path)
    tenants = sorted(held)
    # A tenant that nobody subscribed and one that no catalog names are buckets of their own.
    known, unknown = tenants[:-1], tenants[-1]
    with Workspace(tmp_path, clock=FixedClock(began + timedelta(days=70))) as workspace:
        (workspace.layout.catalog / "shop.yaml").write_text(terms_of_sale(known), encoding="utf-8")
        workspace.apply()
        for month in months:
            workspace.invoice(month, final=True)
        statements = [workspace.reconcile(month) for month in months]
    assert all(statement.is_conserved for statement in statements)
    found = [row for statement in statements for row in statement.rows]
    assert not any(row.rows or row.quantity or row.amount for row in found if row.bucket == "unexplained")

    def total(equation: str, bucket: str) -> tuple[int, Decimal, Decimal]:
        rows = [row for row in found if row.meter is None and (row.equation, row.bucket) == (equation, bucket)]
        return (
            sum(row.rows or 0 for row in rows),
            sum((row.quantity or Decimal(0) for row in rows), Decimal(0)),
            sum((row.amount or Decimal(0) for row in rows), Decimal(0)),
        )

    rows = {tenant: sum(held[tenant].values()) for tenant in tenants}
    used = {tenant: sum(number * times for number, times in held[tenant].items()) for tenant in tenants}
    assert all(rows[tenant] >= last for tenant, last in acknowledged.items())
    whose = {"stored": tenants, "rated": known[:-1], "no_subscription": known[-1:], "unknown_tenant": [unknown]}
    for bucket, some in whose.items():
        assert total("stored", bucket)[:2] == (sum(rows[one] for one in some), sum(used[one] for one in some)), bucket
    assert total("recorded", "recorded")[0] == sum(rows.values())
    worth = sum(used[tenant] for tenant in known[:-1]) * UNIT_PRICE
    invoiced, carried = (total("rated_value", bucket)[2] for bucket in ("invoiced", "carried"))
    assert total("rated_value", "rated_value")[2] == worth == invoiced + carried
    # Less than a cent per line waits for the next invoice.
    assert abs(carried) < Decimal("0.01") * len(known) * len(months)
