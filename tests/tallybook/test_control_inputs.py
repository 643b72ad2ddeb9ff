"""What controls read of real books: a leak of known size is made by the workspace itself, and found by its control."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from sqlalchemy import update

from billing_adapters.reconciliation.recover_by import add_deadlines
from rating.books import invoices
from tallybook.control_inputs import METERS_AT_STRIPE, accepted_windows, windows_of
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


def test_usage_that_stripe_prices_can_be_told_for_as_long_as_stripe_takes_it(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        terms = workspace.terms_or_empty()
        windows = windows_of((), {METERS_AT_STRIPE: {"meters": {"tokens": "tokens_used"}}}, terms)
        used_at = datetime(2026, 10, 5, 12, tzinfo=UTC)

        def deadline(tenant: str | None, meter: str | None, finding_class: str = "AT_RISK") -> datetime | None:
            row = {"control_id": "UNPRICED", "recover_by": None, "class": finding_class, "occurred_at": used_at,
                   "tenant_id": tenant, "meter": meter, "adapter": None}  # fmt: skip
            [found] = add_deadlines([row], {"UNPRICED": "P4"}, terms, windows)
            assert (found["adapter"] == METERS_AT_STRIPE) == (found["recover_by"] is not None)
            instant: datetime | None = found["recover_by"]
            return instant

        # 35 days after it was used, less the quarter of an hour that a run takes.
        assert deadline("acme", "tokens") == datetime(2026, 11, 9, 11, 45, tzinfo=UTC)
        # Calls are not told to Stripe, nobody pays for a stranger there, and a credit has no deadline.
        assert deadline("acme", "calls") is None
        assert deadline("ghost", "tokens") is None
        assert deadline("acme", "tokens", "OVERBILL") is None
        [one, *_] = accepted_windows(windows)["accept_window"].to_pylist()
        assert (one["adapter"], one["oldest_s"]) == (METERS_AT_STRIPE, 35 * 86_400)
        assert windows_of((), {METERS_AT_STRIPE: {}}, terms) == {}


def test_a_document_that_was_changed_in_the_books_is_not_what_its_close_wrote_down(tmp_path: Path) -> None:
    with open_shop(tmp_path) as workspace:
        workspace.invoice("2026-10", final=True)

        def rewritten() -> list[tuple[str, Decimal | None]]:
            found = workspace.reconcile("2026-10").findings
            return [(one.reason, one.amount_likely) for one in found if one.control_id == "CLOSE_REWRITTEN"]

        assert rewritten() == []
        voided, *_ = workspace.invoices("2026-10")
        workspace.void(voided.number or "", who="ana", why="a trial")
        # Its own act says that it was voided; what the close made stays as it was.
        assert rewritten() == []
        chosen = invoices.c.invoice_id == voided.invoice_id
        with workspace.books.begin() as connection:
            connection.execute(update(invoices).where(chosen).values(amount_due=voided.amount_due - Decimal("1.25")))
        assert rewritten() == [("less_than_written", Decimal("1.25"))]
