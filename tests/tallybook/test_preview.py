"""A live preview: the current period of one tenant, the same numbers as a draft, nothing kept."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import event

from metering.clock import FixedClock
from rating.errors import NotFound
from tallybook import Workspace
from tallybook.preview import Preview, preview
from tests.tallybook.shop import CATALOG, LATE, USAGE, import_text, open_shop

IN_OCTOBER = datetime(2026, 10, 25, 12, tzinfo=UTC)
IN_NOVEMBER = datetime(2026, 11, 5, tzinfo=UTC)


def lines(found: Preview) -> dict[tuple[str, str], Decimal]:
    return {(line.kind, line.price_id): line.amount for invoice in found.invoices for line in invoice.lines}


def test_a_preview_is_the_draft_of_the_account(tmp_path: Path) -> None:
    with open_shop(tmp_path, now=IN_OCTOBER) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        found = preview(workspace, "acme")
        drafts = [one for one in workspace.invoice("2026-10").invoices if one.account_id == "acme-inc"]
        assert list(found.invoices) == drafts
        assert [(one.price_id, one.quantity, one.event_count, one.amount) for one in found.usage] == [
            ("fee", 1, 0, Decimal("49.00")),
            ("tokens_out", 1500, 1, Decimal("6.25")),
            ("calls", 1, 1, Decimal("0.50")),
        ]
        assert {line.tenant_id for invoice in found.invoices for line in invoice.lines} == {"acme"}


def test_a_commitment_over_several_periods_counts_months_that_were_never_invoiced(tmp_path: Path) -> None:
    """20 over two months at twice the price: 16.25 in September leave 3.75 of the 6.25 of October, so 2.50 are twice."""
    pot = '    commitments: [{id: pot, amount: "20", overage_factor: 2, periods: 2, prices: [tokens_out]}]\n'
    september = "tenant_id,meter,quantity,event_time,direction\nacme,tokens,2300,2026-09-03T10:00:00Z,output\n"
    text = CATALOG.replace("accounts:\n", f"{pot}accounts:\n").replace('from: "2026-01-01"', 'from: "2026-09-01"')
    with Workspace.init(tmp_path, clock=FixedClock(IN_OCTOBER)) as workspace:
        (workspace.layout.catalog / "shop.yaml").write_text(text, encoding="utf-8")
        workspace.apply()
        import_text(workspace, "september.csv", september)
        import_text(workspace, "usage.csv", USAGE)
        found = preview(workspace, "acme")
        assert lines(found)["usage", "tokens_out"] == Decimal("8.75")
        drafts = [one for one in workspace.invoice("2026-10").invoices if one.account_id == "acme-inc"]
        assert list(found.invoices) == drafts
    with Workspace(tmp_path, clock=FixedClock(IN_NOVEMBER)) as workspace:
        workspace.invoice("2026-10", final=True)
        assert [one.matches for one in workspace.verify()] == [True, True]


def test_a_preview_keeps_nothing_and_is_the_same_again(tmp_path: Path) -> None:
    with open_shop(tmp_path, now=IN_OCTOBER) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        assert preview(workspace, "acme") == preview(workspace, "acme")
        assert workspace.invoices() == []


def test_what_came_late_is_in_the_preview_as_a_correction(tmp_path: Path) -> None:
    with open_shop(tmp_path, now=datetime(2026, 11, 1, tzinfo=UTC)) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10", final=True)
        import_text(workspace, "late.csv", LATE)
    with Workspace(tmp_path, clock=FixedClock(IN_NOVEMBER)) as workspace:
        found = preview(workspace, "acme")
        assert lines(found)["correction", "tokens_out"] == Decimal("1.00")
        assert lines(found)["flat", "fee"] == Decimal("49.00")
        assert {one.period_start.month for one in found.usage} == {11}
        drafts = [one for one in workspace.invoice("2026-11").invoices if one.account_id == "acme-inc"]
        assert list(found.invoices) == drafts


def test_what_is_booked_already_is_not_in_the_preview_again(tmp_path: Path) -> None:
    with open_shop(tmp_path, now=IN_OCTOBER) as workspace:
        import_text(workspace, "usage.csv", USAGE)
        workspace.invoice("2026-10", final=True)
        assert preview(workspace, "acme").invoices == ()
        assert preview(workspace, "acme").usage != ()


def steps_of_the_books(root: Path, others: int) -> int:
    """Return how many steps the database takes for a preview, beside so many tenants who were invoiced before."""
    taken = [0]

    def step() -> None:
        taken[0] += 1

    with open_shop(root, now=datetime(2026, 11, 1, tzinfo=UTC)) as workspace:
        names = [f"other-{number}" for number in range(others)]
        accounts = "".join(f"  - {{id: {name}, name: O, tenants: [{name}]}}\n" for name in names)
        terms = 'plan: pro, version: 1, from: "2026-01-01"'
        held = "".join(f"  - {{id: sub-{name}, tenant: {name}, {terms}}}\n" for name in names)
        (workspace.layout.catalog / "others.yaml").write_text(f"accounts:\n{accounts}subscriptions:\n{held}")
        workspace.apply()
        assert len(workspace.invoice("2026-10", final=True).invoices) == others + 2
    with Workspace(root, clock=FixedClock(IN_NOVEMBER)) as workspace:
        preview(workspace, "acme")

        @event.listens_for(workspace.books, "checkout")
        def watch(connection: sqlite3.Connection, *_: object) -> None:
            connection.set_progress_handler(step, 1)

        assert lines(preview(workspace, "acme"))["flat", "fee"] == Decimal("49.00")
    return taken[0]


def test_other_tenants_cost_the_books_of_a_preview_nothing(tmp_path: Path) -> None:
    few, many = (steps_of_the_books(tmp_path / str(others), others) for others in (10, 110))
    assert few > 500
    assert many - few < 100


def test_an_account_pays_for_several_tenants_and_the_tenants_part_is_said(tmp_path: Path) -> None:
    with open_shop(tmp_path, now=IN_OCTOBER) as workspace:
        file = workspace.layout.catalog / "shop.yaml"
        text = file.read_text(encoding="utf-8").replace("tenants: [acme]", "tenants: [acme, acme-eu]")
        more = '  - {id: sub-eu, tenant: acme-eu, plan: pro, version: 1, from: "2026-01-01"}\n'
        file.write_text(text + more, encoding="utf-8")
        workspace.apply()
        found = preview(workspace, "acme-eu")
        (invoice,) = found.invoices
        assert (invoice.total, found.tenant_total(invoice)) == (Decimal("98.00"), Decimal("49.00"))


def test_a_tenant_without_a_running_subscription_is_refused(tmp_path: Path) -> None:
    with open_shop(tmp_path, now=datetime(2026, 10, 3, tzinfo=UTC)) as workspace:
        with pytest.raises(NotFound, match="do not run now"):
            preview(workspace, "globex")
        with pytest.raises(NotFound, match="no subscription"):
            preview(workspace, "ghost")
