"""Small segments for tests of the lake: deterministic, with every column set."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pyarrow as pa

from metering.batch import SegmentBatch
from metering.clock import to_us
from metering.events import dead_letter_schema, usage_event_schema
from metering.totals import control_totals

START = datetime(2026, 10, 1, tzinfo=UTC)


def segment_batch(
    producer: str, segment: int, rows: int = 3, dead: int = 0, days: int = 1, tenant: str = "acme"
) -> SegmentBatch:
    """Return one segment of `rows` usage events spread over `days`, followed by `dead` dead letters."""
    events = [
        {
            "tenant_id": tenant,
            "meter": "tokens",
            "quantity": Decimal(segment * 1000 + row) + Decimal("0.000000001"),
            "event_time": START + timedelta(days=row % days, seconds=segment),
            "recorded_at": START,
            "producer_id": producer,
            "segment": segment,
            "row": row,
            "idempotency_key": None if row % 2 else f"{producer}-{segment}-{row}",
            "attributes": '{"model":"a"}',
        }
        for row in range(rows)
    ]
    letters = [
        {
            "producer_id": producer,
            "segment": segment,
            "row": rows + row,
            "recorded_at": START,
            "event_date": START.date(),
            "reason": "bad_quantity",
            "detail": "quantity 'x' is not like 123",
            "original": b'{"quantity":"x"}',
        }
        for row in range(dead)
    ]
    event_table = pa.Table.from_pylist(events, schema=usage_event_schema())
    letter_table = pa.Table.from_pylist(letters, schema=dead_letter_schema())
    return SegmentBatch(
        producer_id=producer,
        segment=segment,
        kind="batch",
        rows=rows + dead,
        rows_before=0,
        sealed_at=to_us(START),
        sha256=hashlib.sha256(f"{producer}/{segment}".encode()).hexdigest(),
        previous_sha256=None,
        events=event_table,
        dead_letters=letter_table,
        totals=control_totals(event_table, letter_table),
    )
