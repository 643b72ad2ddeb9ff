"""Arrow adds decimals in 128 bits and wraps without a word; what is published or kept as a total is exact all the same."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from sqlalchemy import Engine

from billing_adapters.file_adapter.columns import arrow_schema
from billing_adapters.file_adapter.shapes import USAGE_DETAIL
from billing_adapters.file_adapter.usage_detail import write_detail
from billing_adapters.kept_lists import keep_list
from billing_adapters.provider_list import LINES, QUANTITIES, ProviderList, provider_table
from metering.control_points import HELD, read_points

NOON = datetime(2026, 10, 5, 12, tzinfo=UTC)
# Ten of them are more than 128 bits hold of billionths.
WIDE, TEN_WIDE = Decimal("20000000000000000000000000000.000000001"), Decimal("200000000000000000000000000000.00000001")
# And ten of these more than they hold of 10^-12.
AMOUNT, TEN_AMOUNTS = Decimal("20000000000000000000000000.01"), Decimal("200000000000000000000000000.1")


def test_the_totals_of_the_file_of_usage_events() -> None:
    schema = arrow_schema(USAGE_DETAIL)
    row = dict.fromkeys(schema.names) | {"producer_id": "p", "segment": 1, "recorded_at": NOON, "disposition": "billed"}
    rows = [row | {"row": at, "meter": "tokens", "quantity": WIDE} for at in range(10)]
    rows += [row | {"row": 10, "meter": "calls"}, row | {"row": 11}]
    table = pa.Table.from_pylist(rows, schema=schema).drop_columns("run_id")
    count, sums = write_detail([table, table], "run-1", io.BytesIO())
    assert (count, sums) == (24, {"tokens": [TEN_WIDE, TEN_WIDE]})


@pytest.mark.parametrize("name", [LINES, QUANTITIES])
def test_the_control_points_of_a_provider_s_list(books: Engine, tmp_path: Path, name: str) -> None:
    rows = [
        {"adapter": "stripe", "provider_id": "in_1", "provider_line_id": f"il_{at}", "currency": "USD", "amount": AMOUNT}
        if name == LINES
        else {"adapter": "aws_marketplace", "account_id": "acme", "name": "tokens", "start": NOON, "end": NOON,
              "quantity": AMOUNT, "status": "accepted"}
        for at in range(10)
    ]  # fmt: skip
    held = ProviderList("stripe", NOON, NOON, NOON, {name: provider_table(name, rows)})
    keep_list(books, tmp_path, held, "import")
    with books.connect() as connection:
        [point] = read_points(connection, HELD)
    assert (point.event_count, point.amount if name == LINES else point.quantity) == (10, TEN_AMOUNTS)
