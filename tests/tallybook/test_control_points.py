"""What a close writes down of attribution, as it attributes: whose the usage is, and what prices and rating had of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import pytest

import metering.rollups
from metering.books import control_points
from metering.clock import FixedClock
from metering.control_points import ATTRIBUTED, RATED, read_points
from rating.points import points_of
from rating.terms import Terms
from tallybook import Workspace
from tests.tallybook.shop import DECEMBER, LATE, NOVEMBER, USAGE, import_text, open_shop


class Written(NamedTuple):
    """A point without what all of a close have in common."""

    reason: str
    account_id: str
    tenant_id: str
    meter: str
    currency: str
    event_count: int
    quantity: str | None


def written(workspace: Workspace, point: str, *reasons: str) -> list[Written]:
    with workspace.books.connect() as connection:
        found = read_points(connection, point)
    return [
        Written(
            one.reason, one.account_id, one.tenant_id, one.meter, one.currency, one.event_count,
            None if one.quantity is None else f"{one.quantity:f}".rstrip("0").rstrip("."),
        )
        for one in found
        if not reasons or one.reason in reasons
    ]  # fmt: skip


@pytest.fixture
def shop(tmp_path: Path) -> Workspace:
    workspace = open_shop(tmp_path / "shop")
    import_text(workspace, "october.csv", USAGE)
    return workspace


def test_every_usage_event_of_the_period_is_somebodys_or_nobodys(shop: Workspace) -> None:
    shop.invoice("2026-10", final=True)
    # The duplicate of 1,500 tokens counts once. Globex is a tenant since the 16th.
    assert written(shop, ATTRIBUTED, "subscribed", "no_subscription", "unknown_tenant", "late_usage_refused") == [
        Written("subscribed", "", "acme", "calls", "", 1, "1"),
        Written("subscribed", "", "acme", "tokens", "", 2, "2277"),
        Written("unknown_tenant", "", "ghost", "calls", "", 1, "1"),
        Written("no_subscription", "", "globex", "calls", "", 1, "1"),
        Written("subscribed", "", "globex", "tokens", "", 1, "400.5"),
    ]


def test_prices_are_handed_what_they_select_and_rating_takes_it(shop: Workspace) -> None:
    shop.invoice("2026-10", final=True)
    # 777 tokens of input are subscribed, and no price takes them.
    handed = [
        Written("priced", "acme-inc", "acme", "calls", "USD", 1, "1"),
        Written("priced", "acme-inc", "acme", "tokens", "USD", 1, "1500"),
        Written("priced", "globex", "globex", "tokens", "USD", 1, "400.5"),
    ]
    assert written(shop, ATTRIBUTED, "priced") == handed
    assert [one for one in written(shop, RATED, "rated") if one.meter] == [
        one._replace(reason="rated") for one in handed
    ]


def test_what_is_rated_is_charged_and_corrections_stand_apart(tmp_path: Path) -> None:
    workspace = open_shop(tmp_path / "shop")
    import_text(workspace, "october.csv", USAGE)
    workspace.invoice("2026-10", final=True)
    import_text(workspace, "late.csv", LATE)
    with Workspace(workspace.layout.root, clock=FixedClock(DECEMBER)) as later:
        later.invoice("2026-11", final=True)
        with later.books.connect() as connection:
            points = read_points(connection, RATED)
    sums: dict[tuple[str, str], Decimal] = {}
    for one in points:
        key = f"{one.period_start:%m}", one.reason
        sums[key] = sums.get(key, Decimal(0)) + (one.amount or Decimal(0))
    assert sums["10", "rated"] == sums["10", "charged"] != 0
    assert sums["11", "rated"] == sums["11", "charged"] != 0
    # 80 tokens more, each at 0.0125.
    assert sums["11", "corrected"] == Decimal("1.00")


def test_lines_of_a_plan_that_is_gone_are_of_the_period_in_which_they_end(shop: Workspace) -> None:
    made = shop.invoice("2026-10", final=True)
    nothing = Terms.of([], [], [], [])
    of_october = {one.reason for one in points_of(made.close, made.invoices, nothing) if one.point == RATED}
    november = replace(made.close, period_start=made.close.period_end, period_end=datetime(2026, 12, 1, tzinfo=UTC))
    of_november = {one.reason for one in points_of(november, made.invoices, nothing) if one.point == RATED}
    assert (of_october, of_november) == ({"charged"}, {"corrected"})


def test_only_what_books_a_period_writes_and_writes_once(shop: Workspace) -> None:
    shop.invoice("2026-10")
    assert written(shop, ATTRIBUTED) == []
    shop.invoice("2026-10", final=True)
    once = written(shop, ATTRIBUTED)
    shop.invoice("2026-10", final=True)
    assert written(shop, ATTRIBUTED) == once
    import_text(shop, "late.csv", LATE)
    shop.correct()
    assert written(shop, ATTRIBUTED) == once


def test_usage_is_read_anew_where_rating_may_read_what_was_kept(
    shop: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metering.rollups, "SCAN_BYTES_MAX", 0)
    shop.invoice("2026-10")
    # As if what was kept of the draft were wrong: rating believes it, attribution does not.
    monkeypatch.setattr("rating.kept.changed_tenants", lambda *_: set())
    import_text(shop, "late.csv", LATE)
    shop.invoice("2026-10", final=True)
    [handed] = [one for one in written(shop, ATTRIBUTED, "priced") if (one.tenant_id, one.meter) == ("acme", "tokens")]
    [rated] = [one for one in written(shop, RATED, "rated") if (one.tenant_id, one.meter) == ("acme", "tokens")]
    assert (handed.event_count, handed.quantity) == (2, "1580")
    assert (rated.event_count, rated.quantity) == (1, "1500")
    # 80 units at 0.0125.
    assert neighbours(shop) == [("ATTRIBUTED_RATED", "not_rated", Decimal(80), Decimal("1.00"))]


def neighbours(workspace: Workspace) -> list[tuple[str, str, Decimal | None, Decimal | None]]:
    """Return what differs in October between two neighbours of the way: control, reason, quantity, amount. All of them ran."""
    statement = workspace.reconcile("2026-10")
    ran = {row["control_id"]: row["result"] for row in statement.runs.to_pylist()}
    assert {ran[name] for name in OF_CLOSES} <= {"passed", "breaks"}
    return [
        (one.control_id, one.reason, one.quantity_difference, one.amount_likely)
        for one in statement.findings
        if one.control_id in OF_CLOSES
    ]


OF_CLOSES = ("STORED_ATTRIBUTED", "ATTRIBUTED_RATED", "RATED_INVOICED")


def test_cuts_voids_and_late_usage_change_nothing_between_neighbours(tmp_path: Path) -> None:
    workspace = open_shop(tmp_path / "shop", now=datetime(2026, 10, 21, tzinfo=UTC))
    import_text(workspace, "october.csv", USAGE)
    cut = workspace.invoice("2026-10", final=True).invoices
    assert len(cut) == 2
    with Workspace(workspace.layout.root, clock=FixedClock(NOVEMBER)) as later:
        later.void(cut[0].number or "", who="ana", why="wrong address")
        import_text(later, "late.csv", LATE)
        later.invoice("2026-10", final=True)
        assert neighbours(later) == []
        # What comes after the close, and what voids one of its events, is not of its cut.
        import_text(later, "later.csv", LATE.replace("late1", "late2"))
        assert neighbours(later) == []
        for one in later.invoices("2026-10"):
            if one.status == "final":
                later.void(one.number or "", who="ana", why="a trial")
        assert neighbours(later) == []


def test_a_line_that_reaches_no_document_is_found(shop: Workspace) -> None:
    shop.invoice("2026-10", final=True)
    assert neighbours(shop) == []
    with shop.books.begin() as connection:
        chosen = control_points.c.reason == "line", control_points.c.meter == "calls"
        connection.execute(control_points.update().where(*chosen).values(amount=Decimal("0.40")))
    # 0.50 charged and asked for, 0.40 on lines: too little on the lines, and more on the document than on them.
    assert neighbours(shop) == [
        ("RATED_INVOICED", "too_much_on_documents", None, Decimal("0.10")),
        ("RATED_INVOICED", "not_on_lines", None, Decimal("0.10")),
    ]
