"""The roll-forward of prepaid balances against a bookkeeper of days: grants, burns, voids, expiry, what the catalog said late."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from metering.clock import FixedClock
from tallybook import Workspace
from tests.tallybook.shop import CATALOG, DECEMBER, NOVEMBER, USAGE, import_text, open_shop
from tests.tallybook.test_publishing import rows, set_catalog

JANUARY = datetime(2027, 1, 1, 3, tzinfo=UTC)
BALANCES = """
balances:
  - {id: mixed, account: acme-inc, currency: USD, amount: "60.00", paid: "20.00", effective: "2026-10-01"}
  - {id: short, account: globex, currency: USD, amount: "30.00", effective: "2026-10-01", expires: "2026-11-01"}
  - {id: soon, account: globex, currency: USD, amount: "5.00", effective: "2026-11-15", expires: "2026-12-01", prices: [calls]}
"""
# Found in December: it is effective since October.
FORGOTTEN = (
    '  - {id: forgotten, account: acme-inc, currency: USD, amount: "7.00", effective: "2026-10-02", prices: [calls]}\n'
)
NAMES = ("granted", "burned", "given_back", "expired")


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workspace]:
    with open_shop(tmp_path / "shop") as workspace:
        set_catalog(workspace, CATALOG + BALANCES)
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10", final=True)
        yield workspace


def check(folder: Path, moved: list[tuple[str, date, str, str]]) -> list[dict[str, Any]]:
    """Compare with what a bookkeeper wrote down by hand: (balance, day, what, amount)."""
    found = rows(folder, "prepaid_roll_forward")
    assert found
    for row in found:
        said: defaultdict[str, Decimal] = defaultdict(Decimal)
        for balance, day, what, amount in moved:
            if balance == row["balance_id"] and f"{day:%Y-%m}" <= row["period"]:
                said["opening" if f"{day:%Y-%m}" < row["period"] else what] += Decimal(amount)
                said["closing"] += Decimal(amount)
        assert {name: Decimal(row[name]) for name in ("opening", *NAMES, "closing")} == {
            name: said[name] for name in ("opening", *NAMES, "closing")
        }, row
    assert {row["difference"] for row in rows(folder, "tie_outs")} == {"0"}
    assert "PREPAID_REGISTER" in {row["control_id"] for row in rows(folder, "tie_outs")}
    return found


def test_balances_roll_from_grant_to_expiry_and_no_closed_month_moves(shop: Workspace) -> None:
    first = date(2026, 11, 1)
    # 55.75 of acme-inc and 25.29 of globex.
    moved = [
        ("mixed", date(2026, 10, 1), "granted", "60.00"),
        ("mixed", first, "burned", "-55.75"),
        ("short", date(2026, 10, 1), "granted", "30.00"),
        ("short", first, "burned", "-25.29"),
        ("short", date(2026, 10, 31), "expired", "-4.71"),
    ]
    october = shop.publish("2026-10", formats=["jsonl"])
    seen = check(october, moved)
    assert {row["balance_id"]: row["used_by_this_run"] for row in seen if row["period"] == "2026-11"} == {
        "mixed": "55.75", "short": "25.29",
    }  # fmt: skip
    # One document is taken back, and billed again with the next invoice: both balances pay again.
    shop.clock = FixedClock(datetime(2026, 11, 20, tzinfo=UTC))
    gone = next(one for one in shop.invoices("2026-10") if one.account_id == "globex")
    shop.void(str(gone.number), who="ann", why="wrong address")
    moved.append(("short", date(2026, 11, 20), "given_back", "25.29"))
    set_catalog(shop, CATALOG + BALANCES + FORGOTTEN)
    shop.clock = FixedClock(DECEMBER)
    shop.invoice("2026-11", final=True)
    burned: defaultdict[str, Decimal] = defaultdict(Decimal)
    for one in shop.invoices("2026-11"):
        for burn in one.prepaid:
            burned[burn.balance_id] += burn.amount
    # The rest of the balance of acme-inc goes to the fee of November; what was given back is burned again, though it expired.
    assert burned == {"mixed": Decimal("4.25"), "short": Decimal("25.29")}
    december = date(2026, 12, 1)
    moved += [
        ("mixed", december, "burned", "-4.25"),
        ("short", december, "burned", "-25.29"),
        ("soon", date(2026, 11, 15), "granted", "5.00"),
        ("soon", date(2026, 11, 30), "expired", "-5.00"),
        # Effective in October, known after its close: it is of the month in which it was found.
        ("forgotten", december, "granted", "7.00"),
    ]
    november = shop.publish("2026-11", formats=["jsonl"])
    check(november, moved)
    shop.clock = FixedClock(JANUARY)
    shop.invoice("2026-12", final=True)
    seen = check(shop.publish("2026-12", formats=["jsonl"]), moved)
    left = {row["balance_id"]: Decimal(row["closing"]) for row in seen if row["period"] == "2026-12"}
    assert left == {"forgotten": Decimal("7.00"), "mixed": Decimal(0), "short": Decimal(0)}
    states = {one.balance_id: one.left for one in shop.balances()}
    assert {name: amount for name, amount in states.items() if amount} == {"forgotten": Decimal("7.00")}
    assert shop.publish("2026-11", formats=["jsonl"]) == november


def test_what_expired_is_burned_after_all_by_a_late_document(shop: Workspace) -> None:
    """A late event of October burns what was left at its end: the expiry is taken back in the month of the document."""
    assert NOVEMBER.date() == date(2026, 11, 1)
    shop.clock = FixedClock(datetime(2026, 11, 10, tzinfo=UTC))
    late = "tenant_id,meter,quantity,event_time,idempotency_key,direction\n"
    import_text(
        shop,
        "late.csv",
        late + "globex,calls,10,2026-10-30T10:00:00Z,l1,\n" + "globex,tokens,1000,2026-10-30T10:00:00Z,l2,output\n",
    )
    shop.clock = FixedClock(DECEMBER)
    shop.invoice("2026-11", final=True)
    burned = sum(
        (burn.amount for one in shop.invoices("2026-11") for burn in one.prepaid if burn.balance_id == "short"),
        Decimal(0),
    )
    assert burned == Decimal("4.71")
    moved = [
        ("mixed", date(2026, 10, 1), "granted", "60.00"), ("mixed", date(2026, 11, 1), "burned", "-55.75"),
        ("mixed", date(2026, 12, 1), "burned", "-4.25"),
        ("short", date(2026, 10, 1), "granted", "30.00"), ("short", date(2026, 11, 1), "burned", "-25.29"),
        ("short", date(2026, 10, 31), "expired", "-4.71"),
        ("short", date(2026, 12, 1), "burned", "-4.71"), ("short", date(2026, 12, 1), "expired", "4.71"),
        ("soon", date(2026, 11, 15), "granted", "5.00"), ("soon", date(2026, 11, 30), "expired", "-5.00"),
    ]  # fmt: skip
    check(shop.publish("2026-11", formats=["jsonl"]), moved)
