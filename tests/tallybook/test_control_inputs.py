"""What controls read of real books: a leak of known size is made by the workspace itself, and found by its control."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from tests.tallybook.shop import CATALOG, open_shop

if TYPE_CHECKING:
    from pathlib import Path


def test_a_discount_that_was_given_too_often_is_found_in_the_books_of_all_periods(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:

        def offer(periods: str) -> None:
            welcome = f'discounts: [{{id: welcome, percent: "10", from: "2026-09-01", periods: "{periods}"}}]'
            text = CATALOG.replace('from: "2026-01-01"}', f'from: "2026-01-01", {welcome}}}')
            (workspace.layout.catalog / "shop.yaml").write_text(text, encoding="utf-8")
            workspace.apply()

        offer("3")
        workspace.invoice("2026-09", final=True)
        workspace.invoice("2026-10", final=True)

        def overused(period: str) -> list[tuple[str, Decimal | None, str]]:
            found = workspace.reconcile(period).findings
            return [
                (one.subject, one.amount_likely, one.detail) for one in found if one.control_id == "DISCOUNT_OVERUSED"
            ]

        assert overused("2026-10") == []
        offer("1")
        # 10 % of the fee of 49.00, once more than it is for; in September it was right.
        detail = "discount welcome is for 1 billing period(s); this is number 2"
        assert overused("2026-10") == [("sub-acme welcome", Decimal("4.9"), detail)]
        assert overused("2026-09") == []
