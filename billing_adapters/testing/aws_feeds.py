"""Feeds as AWS Marketplace writes them for its sellers: all columns, in AWS's order, for tests of whatever reads them.

Enters: rows, of which a test says what matters. Leaves: CSV files. Refuses: columns that the feed does not have.
Source: reference/providers.md, section 2.7.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

USAGE_COLUMNS = (
    "valid_from", "insert_date", "update_date", "delete_date", "usage_feed_id", "usage_date", "product_id", "agreement_id",
    "end_user_account_id", "payer_account_id", "region", "dimension_key", "usage_unit", "usage_quantity", "pricing_currency",
    "estimated_revenue_in_pricing_currency", "catalog", "recipient_account_id", "offer_id",
    "usage_rate_per_unit_in_pricing_currency", "charge_item_description",
)  # fmt: skip
BILLING_COLUMNS = (
    "valid_from", "insert_date", "update_date", "delete_date", "billing_event_id", "from_account_id", "to_account_id",
    "end_user_account_id", "product_id", "action", "transaction_type", "parent_billing_event_id", "amount", "currency",
    "balance_impacting", "invoice_id", "invoice_date", "payment_due_date", "usage_period_start_date", "usage_period_end_date",
    "transaction_reference_id", "broker_id",
)  # fmt: skip


def write_usage_feed(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Write a month's file of the daily usage feed."""
    _write(path, USAGE_COLUMNS, rows)


def write_billing_feed(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Write a month's file of the billing event feed."""
    _write(path, BILLING_COLUMNS, rows)


def _write(path: Path, columns: tuple[str, ...], rows: Iterable[Mapping[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="raise", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
