"""A provider's list from a file: the same tables as from an adapter, to the last digit, or refused with row and column."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from billing_adapters.adapter import Document
from billing_adapters.errors import ProviderListRefused
from billing_adapters.provider_list import PARTS, TABLES, from_double, provider_schema, provider_table, read_table
from metering.clock import from_us
from tests.billing_adapters.invoices import invoice
from tests.billing_adapters.stripe_world import StripeWorld
from tests.billing_adapters.test_stripe_adapter import books, deliver

QUANTITIES = """adapter,account_id,name,start,end,quantity,status
aws_marketplace,acme,api_calls,2026-10-01T05:00:00Z,2026-10-01T06:00:00Z,0.455000000001,billed
aws_marketplace,acme,api_calls,2026-10-01T08:00:00+02:00,2026-10-01T07:00:00Z,12,billed
"""


def written(folder: Path, text: str, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_an_export_fills_the_schema(tmp_path: Path) -> None:
    table = read_table("quantities", written(tmp_path, QUANTITIES))
    assert table.schema == provider_schema("quantities")
    assert table["quantity"].to_pylist() == [Decimal("0.455000000001"), 12]
    assert table["start"].to_pylist() == [datetime(2026, 10, 1, hour, tzinfo=UTC) for hour in (5, 6)]
    assert table["provider_id"].null_count == 2


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (",12,", ",1e3,", "row 2: quantity '1e3' is not a plain decimal"),
        (",12,", ",1_000,", "row 2: quantity '1_000' is not a plain decimal"),
        (",12,", ",0.1234567890123,", "row 2: quantity '0.1234567890123' is not a plain decimal"),
        (",12,", ",,", "row 2: quantity None is not there"),
        ("2026-10-01T07:00:00Z", "2026-10-01 07:00", "row 2: end '2026-10-01 07:00' is not an instant with a zone"),
        (",quantity,", ",amount,", "unknown: amount; missing: quantity"),
        ("acme,api_calls,2026-10-01T05", "acme,2026-10-01T05", "cannot be read as CSV"),
    ],
)
def test_what_is_not_right_is_refused_where_it_stands(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(ProviderListRefused, match=said.replace("(", r"\(")):
        read_table("quantities", written(tmp_path, QUANTITIES.replace(old, new)))


@pytest.mark.parametrize("currency", ["usd", "XYZ", "US$"])
def test_a_currency_is_one_of_ours(tmp_path: Path, currency: str) -> None:
    head = "adapter,kind,provider_id,currency,total,lines,status,created_at"
    row = "stripe,invoice,in_{},{},10.00,1,open,2026-10-05T10:00:00Z"
    text = "\n".join([head, row.format(1, "USD"), row.format(2, currency), ""])
    with pytest.raises(ProviderListRefused, match=r"row 2: currency '.+' is not a code of ISO 4217, in three capitals"):
        read_table("documents", written(tmp_path, text))


def test_floats_of_parquet_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    rows = provider_table("quantities", []).to_pylist()
    table = pa.table({name: pa.array(rows, pa.string()) for name in provider_schema("quantities").names})
    pa.parquet.write_table(table.set_column(5, "quantity", pa.array([], pa.float64())), path)
    with pytest.raises(ProviderListRefused, match="holds floats"):
        read_table("quantities", path)


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProviderListRefused, match="as Parquet"):
        read_table("lines", written(tmp_path, "no", "list.parquet"))
    with pytest.raises(ProviderListRefused, match="as CSV"):
        read_table("lines", tmp_path / "absent.csv")


def test_what_an_adapter_lists_goes_through_files_unchanged(tmp_path: Path) -> None:
    world, engine = StripeWorld(), books()
    deliver(world, engine, [Document(invoice(1, *["1.10"] * 13)), Document(invoice(2, "1.234", currency="KWD"))])
    world.client.v1.invoices.pay(world.fake.store.all("invoice")[0]["id"], {})
    now = from_us(world.clock.now_us())
    held = world.adapter().list_held(
        now - timedelta(days=1), now + timedelta(days=1), asked=[], spend=lambda: None, read_at=now
    )
    assert held.table("lines").num_rows == 14
    assert set(held.tables) == set(world.adapter().capabilities.listing.tables)  # type: ignore[union-attr]
    for name, table in held.tables.items():
        exported = pa.table({column: texts(table[column]) for column in table.column_names})
        pa.csv.write_csv(exported, tmp_path / f"{name}.csv")
        assert read_table(name, tmp_path / f"{name}.csv").equals(table)
        pa.parquet.write_table(table, tmp_path / f"{name}.parquet")
        assert read_table(name, tmp_path / f"{name}.parquet").equals(table)


def texts(column: Any) -> pa.Array:
    """Return a column as people export it."""
    values = column.to_pylist()
    return pa.array(
        [value.isoformat() if isinstance(value, datetime) else None if value is None else f"{value}" for value in
         (f"{one:f}" if isinstance(one, Decimal) else one for one in values)], pa.string())  # fmt: skip


def test_every_payment_is_the_sum_of_its_parts_at_stripe() -> None:
    world, engine = StripeWorld(), books()
    deliver(world, engine, [Document(invoice(n, amount)) for n, amount in enumerate(["0.30", "10.00", "20.00"])])
    second = world.fake.store.all("invoice")[1]
    world.client.v1.credit_notes.create({"invoice": second["id"], "amount": 400})
    world.client.v1.invoices.pay(second["id"], {})
    world.client.v1.credit_notes.create({"invoice": second["id"], "amount": 100, "credit_amount": 100})
    now = from_us(world.clock.now_us())
    held = world.adapter().list_held(
        now - timedelta(days=1), now + timedelta(days=1), asked=[], spend=lambda: None, read_at=now
    )
    rows = held.table("payments").to_pylist()
    assert len(rows) == 5
    for row in rows:
        assert row["total"] == sum(row[part] for part in PARTS), row


def test_what_is_lowered_after_the_span_that_is_asked_for_is_credited_all_the_same() -> None:
    world, engine = StripeWorld(), books()
    deliver(world, engine, [Document(invoice(1, "10.00"))])
    start, end = from_us(world.clock.now_us()) - timedelta(days=1), from_us(world.clock.now_us()) + timedelta(days=1)
    world.clock.advance(timedelta(days=2))
    (made,) = world.fake.store.all("invoice")
    world.client.v1.credit_notes.create({"invoice": made["id"], "amount": 400})
    held = world.adapter().list_held(start, end, asked=[], spend=lambda: None, read_at=from_us(world.clock.now_us()))
    # The note itself is of a later span.
    (row,) = held.table("payments").to_pylist()
    assert (row["total"], row["open"], row["credited"]) == (Decimal(10), Decimal(6), Decimal(4))
    assert [one["kind"] for one in held.table("documents").to_pylist()] == ["invoice"]


def test_a_double_is_its_shortest_text() -> None:
    assert from_double(0.1) == Decimal("0.1")
    assert from_double(0.1 + 0.2) == Decimal("0.3")
    assert from_double(1e21) == Decimal("1000000000000000000000")
    assert from_double(7) == 7


def test_an_empty_table_has_its_columns() -> None:
    assert {name: provider_schema(name).empty_table().num_rows for name in TABLES} == dict.fromkeys(TABLES, 0)
