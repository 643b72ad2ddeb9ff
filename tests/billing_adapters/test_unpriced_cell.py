"""A strange attribute of one tenant: its own use is not billed and a finding, and nobody else waits for it."""

from __future__ import annotations

from pathlib import Path

from tests.tallybook.shop import import_text, open_shop

MATRIX = """
meters:
  - {name: machines, unit: hour, attributes: [region]}
plans:
  - name: machines
    version: 1
    currency: USD
    prices:
      - {id: machine_hours, meter: machines, type: matrix, attributes: [region],
         cells: [{values: [eu], unit_price: "2"}, {values: [us], unit_price: "1.50"}]}
subscriptions:
  - {id: sub-acme-machines, tenant: acme, plan: machines, version: 1, from: "2026-01-01"}
  - {id: sub-globex-machines, tenant: globex, plan: machines, version: 1, from: "2026-01-01"}
"""
HOURS = """tenant_id,meter,quantity,event_time,region
acme,machines,10,2026-10-03T10:00:00Z,eu
acme,machines,50,2026-10-03T10:00:00Z,moon
globex,machines,4,2026-10-03T10:00:00Z,us
"""


def test_one_strange_attribute_holds_up_nobody(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        (workspace.layout.catalog / "machines.yaml").write_text(MATRIX, encoding="utf-8")
        workspace.apply()
        import_text(workspace, "hours.csv", HOURS)
        invoices = workspace.invoice("2026-10", final=True).invoices
        lines = [line for one in invoices for line in one.lines if line.price_id == "machine_hours"]
        assert {(line.tenant_id, str(line.amount)) for line in lines} == {("acme", "20.00"), ("globex", "6.00")}
        statement = workspace.reconcile("2026-10")
        [found] = [one for one in statement.findings if one.control_id == "UNPRICED_CELL"]
        assert (found.tenant_id, found.meter, found.rows, str(found.quantity_difference)) == (
            "acme", "machines", 1, "50.000000000",
        )  # fmt: skip
        assert "moon" in found.detail
        assert statement.is_conserved
        assert all(one.matches for one in workspace.verify())
