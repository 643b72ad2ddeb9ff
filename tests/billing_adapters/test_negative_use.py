"""Use that was taken back and counts nowhere: a finding with its size, and no control that fails for a sum below zero."""

from __future__ import annotations

from pathlib import Path

from metering.clock import FixedClock
from tallybook import Workspace
from tests.tallybook.shop import NOVEMBER, import_text

CATALOG = """
meters:
  - {name: moves, negative_allowed: true}
  - {name: idle, negative_allowed: true}
  - {name: other, negative_allowed: true}
plans:
  - name: pro
    version: 1
    currency: USD
    prices:
      - {id: moves, meter: moves, type: unit, unit_price: "2"}
      - {id: idle, meter: idle, type: unit, unit_price: "2"}
  - name: punctual
    version: 1
    currency: USD
    late_usage_days: 0
    prices: [{id: moves, meter: moves, type: unit, unit_price: "2"}]
accounts:
  - {id: payer, name: Payer, tenants: [acme, later, late]}
subscriptions:
  - {id: sub-acme, tenant: acme, plan: pro, version: 1, from: "2026-01-01"}
  - {id: sub-later, tenant: later, plan: pro, version: 1, from: "2026-10-16"}
  - {id: sub-late, tenant: late, plan: punctual, version: 1, from: "2026-01-01"}
"""
USAGE = """tenant_id,meter,quantity,event_time
acme,idle,-7,2026-09-05T10:00:00Z
acme,other,-4,2026-10-05T10:00:00Z
later,moves,-3,2026-10-02T10:00:00Z
ghost,moves,-2,2026-10-02T10:00:00Z
late,moves,-5,2026-10-03T10:00:00Z
late,moves,1,2026-10-03T11:00:00Z
"""


def test_what_is_below_zero_has_a_size_and_the_statement_holds(tmp_path: Path) -> None:
    with Workspace.init(tmp_path, clock=FixedClock(NOVEMBER)) as workspace:
        (workspace.layout.catalog / "shop.yaml").write_text(CATALOG, encoding="utf-8")
        workspace.apply()
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10", final=True)
        statement = workspace.reconcile("2026-10")
    found = {one.control_id: (one.tenant_id, one.quantity_difference, one.finding_class) for one in statement.findings}
    assert "CONTROL_NOT_RUN" not in found
    assert statement.is_conserved
    assert {name: found[name] for name in ("UNPRICED_METER", "NO_SUBSCRIPTION", "UNKNOWN_TENANT")} == {
        "UNPRICED_METER": ("acme", 4, "DATA_QUALITY"),
        "NO_SUBSCRIPTION": ("later", 3, "DATA_QUALITY"),
        "UNKNOWN_TENANT": ("ghost", 2, "DATA_QUALITY"),
    }
    # Four less would have been billed: what is refused may be the tenant's own.
    assert found["LATE_USAGE_REFUSED"] == ("late", 4, "OVERBILL")
    assert found["METER_SILENT_GLOBAL"][1] == 7
