"""Key figures of a real workspace, each by hand: what a witness saw, who is on no invoice, what came late."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from billing_adapters.reconciliation.inputs import schema_of
from billing_adapters.reconciliation.kpis import kpis
from billing_adapters.reconciliation.witness import Witness
from metering.clock import FixedClock
from tallybook import Workspace
from tests.tallybook.shop import DECEMBER, LATE, USAGE, import_text, open_shop

Share = tuple[Decimal, Decimal]


def figures(workspace: Workspace, period: str, witness: Witness | None = None) -> dict[tuple[str, str | None], Share]:
    found = kpis(workspace.report(period, witness=witness))
    return {(one.name, one.currency): (one.part, one.whole) for one in found}


@pytest.fixture
def shop(tmp_path: Path) -> Workspace:
    workspace = open_shop(tmp_path / "shop")
    import_text(workspace, "october.csv", USAGE)
    return workspace


def test_who_owes_something_and_is_on_no_invoice(shop: Workspace) -> None:
    # October is over; both subscriptions owe a fee.
    assert figures(shop, "2026-10")["unbilled rate", None] == (2, 2)
    shop.invoice("2026-10", final=True)
    assert figures(shop, "2026-10")["unbilled rate", None] == (0, 2)
    [one] = [one for one in shop.invoices("2026-10") if one.account_id == "globex"]
    shop.void(one.number or "", who="ana", why="a trial")
    assert figures(shop, "2026-10")["unbilled rate", None] == (1, 2)
    # November is not over: nobody owes anything for it yet.
    assert ("unbilled rate", None) not in figures(shop, "2026-11")


def test_what_came_late_is_a_share_of_what_closes_charged(shop: Workspace) -> None:
    assert ("late usage share", "USD") not in figures(shop, "2026-10")
    shop.invoice("2026-10", final=True)
    assert figures(shop, "2026-10")["late usage share", "USD"][0] == 0
    import_text(shop, "late.csv", LATE)
    with Workspace(shop.layout.root, clock=FixedClock(DECEMBER)) as later:
        later.invoice("2026-11", final=True)
        # Two fees of 49.00, and 80 tokens of October at 0.0125.
        assert figures(later, "2026-11")["late usage share", "USD"] == (Decimal("1.00"), Decimal("99.00"))


def test_what_is_metered_too_often_does_not_make_up_for_what_is_missing(shop: Workspace) -> None:
    def seen(tenant: str, meter: str, day: int, count: str) -> dict[str, object]:
        start = datetime(2026, 10, day, 10, tzinfo=UTC)
        return {"tenant_id": tenant, "meter": meter, "bucket_start": start, "count": Decimal(count)}

    # Metered are 2,277 tokens of acme and 400.5 of globex; the witness saw 2,000, 801 and 100 calls that nobody metered.
    rows = [seen("acme", "tokens", 3, "2000"), seen("globex", "tokens", 20, "801"), seen("untold", "calls", 20, "100")]
    table = pa.Table.from_pylist(rows, schema=schema_of("witness"))
    assert figures(shop, "2026-10", Witness(table, 3, 3, 0))["capture rate", None] == (
        Decimal("2400.5"),
        Decimal("2901"),
    )
    assert ("capture rate", None) not in figures(shop, "2026-10")
