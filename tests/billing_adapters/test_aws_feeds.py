"""Seller feeds of AWS Marketplace: versions, deletions, sums by day, the fee as it is read; and what is refused, by line."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from itertools import permutations
from pathlib import Path

import pytest

from billing_adapters.aws_marketplace_adapter.feeds import (
    PARTS,
    SUBSCRIBED_USAGE,
    documents_of,
    part_of,
    read_billing,
    read_usage,
)
from billing_adapters.errors import ProviderListRefused
from billing_adapters.provider_list import DOCUMENTS, QUANTITIES, provider_schema, read_table
from billing_adapters.testing.aws_feeds import write_billing_feed, write_usage_feed

ACCOUNTS = {"agmt-1": "acme-inc", "agmt-2": "globex"}


def used(identity: str, quantity: str, day: str = "2026-11-03", **more: str) -> dict[str, str]:
    return {
        "valid_from": "2026-11-04T00:00:00Z",
        "insert_date": "2026-11-04T00:00:00Z",
        "update_date": "2026-11-04T00:00:00Z",
        "usage_feed_id": identity,
        "usage_date": day,
        "agreement_id": "agmt-1",
        "end_user_account_id": "guid-1",
        "region": "us-east-1",
        "dimension_key": "tok",
        "usage_quantity": quantity,
        "usage_rate_per_unit_in_pricing_currency": "0.012000",
        **more,
    }


def test_versions_deletions_and_regions_make_one_row_per_day(tmp_path: Path) -> None:
    rows = [
        used("u1", "1.50"),
        used("u1", "2.50", valid_from="2026-11-05T00:00:00Z"),
        used("u2", "4.00", region="eu-west-1"),
        used("u3", "9.00"),
        used("u3", "9.00", valid_from="2026-11-06T00:00:00Z", delete_date="2026-11-06T00:00:00Z"),
        used("u4", "7.25", "2026-11-04", agreement_id="agmt-2"),
        used("u5", "1.00", agreement_id="", end_user_account_id="guid-9"),
    ]
    tables = []
    for order in list(permutations(rows, len(rows)))[::700]:
        path = tmp_path / "usage.csv"
        write_usage_feed(path, order)
        # The month's file grows: what was read before is read again.
        tables.append(read_usage([path, path], ACCOUNTS))
    assert all(table.schema == provider_schema(QUANTITIES) for table in tables)
    found = [
        (row["account_id"], row["name"], row["start"], row["quantity"], row["unit_price"], row["provider_id"])
        for row in tables[0].to_pylist()
    ]
    third, fourth = datetime(2026, 11, 3, tzinfo=UTC), datetime(2026, 11, 4, tzinfo=UTC)
    price = Decimal("0.012")
    assert found == [
        ("acme-inc", "tok", third, Decimal("6.5"), price, None),
        ("globex", "tok", fourth, Decimal("7.25"), price, "u4"),
        # Nobody of ours: seen under AWS's own id.
        ("guid-9", "tok", third, Decimal(1), price, "u5"),
    ]
    for table in tables:
        assert sorted(table.drop(["provider_id"]).to_pylist(), key=str) == sorted(
            tables[0].drop(["provider_id"]).to_pylist(), key=str
        )


def test_another_report_is_another_shape_of_the_same_table(tmp_path: Path) -> None:
    path = tmp_path / "subscribed.csv"
    head = "row_type,row_modified_date,internal_usage_line_item_id,usage_date,dimension_key,usage_quantity,"
    head += "agreement_id,end_user_aws_account_id"
    lines = [
        "INSERT,2026-11-04T01:00:00Z,i1,2026-11-03,tok,1.50,,111122223333",
        "UPDATE,2026-11-05T01:00:00Z,i1,2026-11-03,tok,1.75,,111122223333",
        "INSERT,2026-11-04T01:00:00Z,i2,2026-11-03,tok,5.00,,111122223333",
        "DELETE,2026-11-06T01:00:00Z,i2,2026-11-03,tok,5.00,,111122223333",
    ]
    path.write_text("\n".join([head, *lines]) + "\n")
    (row,) = read_usage([path], {"111122223333": "acme-inc"}, SUBSCRIBED_USAGE).to_pylist()
    assert (row["account_id"], row["quantity"], row["unit_price"]) == ("acme-inc", Decimal("1.75"), None)


def event(identity: str, kind: str, amount: str, action: str = "INVOICED", **more: str) -> dict[str, str]:
    return {
        "valid_from": "2026-12-03T00:00:00Z",
        "billing_event_id": identity,
        "action": action,
        "transaction_type": kind,
        "amount": amount,
        "currency": "USD",
        "invoice_id": "inv-1",
        "invoice_date": "2026-12-03T00:00:00Z",
        "end_user_account_id": "guid-1",
        "usage_period_start_date": "2026-11-01T00:00:00Z",
        "usage_period_end_date": "2026-11-30T23:59:59Z",
        **more,
    }


def test_an_invoice_s_money_is_in_parts_that_sum_to_all_events(tmp_path: Path) -> None:
    rows = [
        event("e1", "SELLER_REV_SHARE", "100.00"),
        event("e2", "AWS_REV_SHARE", "-3.00"),
        event("e3", "SELLER_TAX_SHARE", "8.00"),
        event("e4", "SELLER_REV_SHARE_REFUND", "-10.00"),
        event("e5", "AWS_REV_SHARE_REFUND", "0.30"),
        event("e6", "SELLER_REV_SHARE_CREDIT", "-1.00"),
        event("e7", "SOMETHING_NEW_OF_2027", "0.01"),
        event("e8", "SELLER_REV_SHARE", "-2.00", "FORGIVEN"),
        event("e9", "DISBURSEMENT", "-92.31", "DISBURSED", invoice_id="", invoice_date=""),
        event("e9", "DISBURSEMENT", "-92.31", "DISBURSED", invoice_id="", invoice_date=""),
        event("e10", "SELLER_REV_SHARE", "500", currency="JPY", invoice_id="inv-2"),
    ]
    path = tmp_path / "billing.csv"
    write_billing_feed(path, rows)
    table = read_billing([path])
    by_id = {row["invoice_id"]: row for row in table.to_pylist()}
    first = by_id["inv-1"]
    assert {name: first[name] for name in PARTS if first[name]} == {
        "net": Decimal(100), "tax": Decimal(8), "fee": Decimal("-2.7"), "refunded": Decimal(-10),
        "credited": Decimal(-1), "forgiven": Decimal(-2), "other": Decimal("0.01"),
    }  # fmt: skip
    # AWS writes the last second of a month; our ends are open.
    assert first["usage_end"] == datetime(2026, 12, 1, tzinfo=UTC)
    unique = {row["billing_event_id"]: Decimal(row["amount"]) for row in rows}
    assert sum(row[name] for row in by_id.values() for name in PARTS) == sum(unique.values())
    documents = documents_of(table)
    assert documents.schema == provider_schema(DOCUMENTS)
    found = {row["provider_id"]: (row["net"], row["tax"], row["total"]) for row in documents.to_pylist()}
    assert found == {
        "inv-1": (Decimal(100), Decimal(8), Decimal(108)),
        "inv-2": (Decimal(500), Decimal(0), Decimal(500)),
    }
    assert part_of("ELSEWHERE", "SELLER_REV_SHARE") == "other"


def test_an_invoice_with_money_and_no_date_is_refused_and_never_left_out(tmp_path: Path) -> None:
    path = tmp_path / "billing.csv"
    write_billing_feed(path, [event("e1", "SELLER_REV_SHARE", "7.00", invoice_date="")])
    with pytest.raises(ProviderListRefused, match="inv-1 has 7 USD and no invoice_date"):
        documents_of(read_billing([path]))
    # What only forgives an invoice of an earlier file bills nothing, so there is no document to date.
    write_billing_feed(path, [event("e1", "SELLER_REV_SHARE", "-7.00", "FORGIVEN", invoice_date="")])
    assert documents_of(read_billing([path])).num_rows == 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"usage_quantity": "1e3"}, "line 2: usage_quantity '1e3' is not a plain decimal"),
        ({"usage_quantity": ""}, "is not a plain decimal"),
        ({"usage_date": "yesterday"}, "usage_date 'yesterday' is no date"),
        ({"usage_feed_id": ""}, "usage_feed_id is empty"),
    ],
)
def test_a_file_that_is_not_right_is_refused_by_line(tmp_path: Path, change: dict[str, str], why: str) -> None:
    path = tmp_path / "usage.csv"
    write_usage_feed(path, [{**used("u1", "1.50"), **change}])
    with pytest.raises(ProviderListRefused, match=why):
        read_usage([path], ACCOUNTS)


def test_another_file_is_refused_by_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "usage.csv"
    write_usage_feed(path, [used("u1", "1.50")])
    with pytest.raises(ProviderListRefused, match=r"lacks the columns .*; is it another report"):
        read_billing([path])
    path.write_text(path.read_text() + "one,two\n")
    with pytest.raises(ProviderListRefused, match="line 3 has 2 values"):
        read_usage([path], ACCOUNTS)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ProviderListRefused, match="cannot be read as CSV"):
        read_usage([path], ACCOUNTS)


def test_what_was_read_can_be_imported_as_a_provider_s_list(tmp_path: Path) -> None:
    import pyarrow.parquet

    path = tmp_path / "usage.csv"
    write_usage_feed(path, [used("u1", "1.50")])
    table = read_usage([path], ACCOUNTS)
    pyarrow.parquet.write_table(table, tmp_path / "quantities.parquet")
    assert read_table(QUANTITIES, tmp_path / "quantities.parquet") == table
