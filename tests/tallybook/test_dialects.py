"""Switches that act around invoices: what is found late, early invoices, prepaid balances and tax. Whole workspaces."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from metering.clock import FixedClock
from rating.tax import FixedRates, TaxRate
from tallybook import Workspace
from tests.tallybook.shop import import_text

CATALOG = """
meters:
  - {name: calls, aggregation: sum}
plans:
  - name: pro
    version: 1
    currency: USD
    switches: SWITCHES
    prices:
      - {id: fee, type: flat, amount: "49.00"}
      - {id: calls, meter: calls, type: unit, unit_price: "1.00"}
    minimums: [{id: least, amount: "60"}]
accounts:
  - {id: acme-inc, name: "Acme, Inc.", tenants: [acme]}
subscriptions:
  - {id: sub-acme, tenant: acme, plan: pro, version: 1, from: "2026-01-01"}
"""
HEAD = "tenant_id,meter,quantity,event_time\n"


def shop(root: Path, switches: str, now: datetime, catalog: str = CATALOG) -> Workspace:
    workspace = Workspace.init(root, clock=FixedClock(now))
    (workspace.layout.catalog / "shop.yaml").write_text(catalog.replace("SWITCHES", switches), encoding="utf-8")
    workspace.apply()
    return workspace


def use(workspace: Workspace, name: str, *used: tuple[int, str]) -> None:
    rows = [f"acme,calls,{quantity},2026-{month:02}-10T10:00:00Z\n" for month, quantity in used]
    import_text(workspace, f"{name}.csv", HEAD + "".join(rows))


def instant(month: int) -> datetime:
    """Return when a month is over."""
    return datetime(2026, month + 1, 1, 3, tzinfo=UTC)


def close(workspace: Workspace, month: int) -> dict[tuple[str, int], Decimal]:
    """Invoice a month when it is over; return the amount of each line by price and the month it belongs to."""
    workspace.clock = FixedClock(instant(month))
    made = workspace.invoice(f"2026-{month:02}", final=True).invoices
    return {(line.price_id, line.period_start.month): line.amount for one in made for line in one.lines}


@pytest.mark.parametrize(("policy", "late"), [("two_periods", 3), ("frozen", 0)])
def test_what_is_found_late(tmp_path: Path, policy: str, late: int) -> None:
    """5 on time, 3 one period old, 7 four periods old: 8 or 5, where ours is 15. And what is not billed is said."""
    with shop(tmp_path, f"{{late_usage: {policy}}}", instant(5)) as workspace:
        for month in (6, 9):
            use(workspace, f"on-time-{month}", (month, "20"))
            close(workspace, month)
        use(workspace, "october", (10, "5"), (9, "3"), (6, "7"))
        lines = close(workspace, 10)
        assert lines["calls", 10] == 5
        assert sum(amount for (price_id, month), amount in lines.items() if price_id == "calls" and month < 10) == late
        # The fee and the minimum of October, and no corrections of anything else.
        assert {key for key in lines if key[0] != "calls"} == {("fee", 10), ("least", 10)}
        june = [row for row in workspace.reconcile("2026-06").rows if row.meter == "calls"]
        left = {row.bucket: row.amount for row in june if row.amount}
        assert left == {"rated_value": 27, "invoiced": 20, "late_frozen": 7}
        assert workspace.reconcile("2026-06").is_conserved
        assert all(one.matches for one in workspace.verify())


def test_a_frozen_plan_still_bills_the_fee_of_a_subscription_that_was_told_late(tmp_path: Path) -> None:
    with shop(tmp_path, "{late_usage: frozen}", instant(9)) as workspace:
        use(workspace, "september", (9, "20"))
        close(workspace, 9)
        told = CATALOG.replace("tenants: [acme]", "tenants: [acme, late]")
        told += '  - {id: sub-late, tenant: late, plan: pro, version: 1, from: "2026-09-01"}\n'
        (workspace.layout.catalog / "shop.yaml").write_text(told.replace("SWITCHES", "{late_usage: frozen}"))
        workspace.apply()
        import_text(workspace, "late.csv", HEAD + "late,calls,9,2026-09-10T10:00:00Z\n")
        lines = close(workspace, 10)
        assert ("fee", 9) in lines
        assert not {("calls", 9), ("least", 9)} & lines.keys()


@pytest.mark.parametrize(("switches", "next_at"), [("{threshold_count: from_zero}", 400)])
def test_where_early_invoices_recur(tmp_path: Path, switches: str, next_at: int) -> None:
    """50, then every 100; 350 invoiced: the next one is at 450, or at 400."""
    thresholds = "tenants: [acme], invoice_thresholds: {amounts: [50], every: 100}"
    catalog = CATALOG.replace("tenants: [acme]", thresholds).replace('{id: fee, type: flat, amount: "49.00"}', FREE)
    with shop(tmp_path, switches, datetime(2026, 10, 20, tzinfo=UTC), catalog) as workspace:
        use(workspace, "first", (10, "350"))
        assert [str(one.total) for one in workspace.invoice_thresholds().invoices] == ["350.00"]
        use(workspace, "second", (10, str(next_at - 351)))
        assert workspace.invoice_thresholds().invoices == []
        use(workspace, "third", (10, "1"))
        assert [str(one.total) for one in workspace.invoice_thresholds().invoices] == [f"{next_at - 350}.00"]


FREE = '{id: fee, type: flat, amount: "0"}'
BALANCES = """
balances:
  - {id: june, account: acme-inc, currency: USD, amount: "10", priority: 2, effective: "2026-01-01", expires: "2027-06-01"}
  - {id: july, account: acme-inc, currency: USD, amount: "10", priority: 1, effective: "2026-01-01", expires: "2027-07-01"}
"""
ONE_BALANCE = "\n".join(BALANCES.splitlines()[:-1]) + "\n"


@pytest.mark.parametrize(
    ("switches", "balances", "first", "to_pay"),
    [
        ("{}", BALANCES, "july", "74.50"),
        ("{prepaid_and_tax: before}", ONE_BALANCE, "june", "84.00"),
        ("{burn_order: expiry, prepaid_and_tax: before}", BALANCES, "june", "73.50"),
    ],
)
def test_which_balance_burns_first_and_what_tax_sees(
    tmp_path: Path, switches: str, balances: str, first: str, to_pay: str
) -> None:
    """A 10 of priority 2 until June, B 10 of priority 1 until July. Net 90, tax 5 %, 10 prepaid: 84.00 to pay (ours: 84.50)."""
    catalog = CATALOG.replace('{id: fee, type: flat, amount: "49.00"}', FREE) + balances
    with shop(tmp_path, switches, instant(9), catalog) as workspace:
        use(workspace, "october", (10, "90"))
        workspace.clock = FixedClock(instant(10))
        [invoice] = workspace.invoice("2026-10", final=True).invoices
        assert invoice.prepaid[0].balance_id == first
        taxed = workspace.taxes(invoice.invoice_id, FixedRates({}, [TaxRate("VAT", Decimal(5))]))
        assert taxed.net == invoice.total == 90
        assert f"{taxed.tax + invoice.amount_due:.2f}" == to_pay
