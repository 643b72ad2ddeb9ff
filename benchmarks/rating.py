"""Rating: a month of usage events to invoice lines, against the loop that anybody would write first, and against polars.

The workload is made here: skewed tenants, three meters, attributes, prices of four types. What is timed:
- aggregation: Parquet files of the lake to quantities per tenant, meter and attributes, by us and by polars;
- the whole way: files to invoice lines, by us, and by a plain Decimal loop over the same events in memory.
The answers are compared before any time is reported.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet

from benchmarks.figures import Figure, median_seconds
from metering.catalog import Meter
from metering.engine import fetch
from metering.events import usage_event_schema
from metering.periods import parse_period
from metering.usage import Snapshot, aggregate, open_evidence
from rating.ledger import booked_nothing
from rating.plans import Account, Plan, Subscription
from rating.rate import rate, subtract_booked
from rating.terms import Terms, billing_spans, usage_questions

TIERS = [{"up_to": "1000", "unit_price": "0"}, {"up_to": "100000", "unit_price": "0.0020"}, {"unit_price": "0.0012"}]
PRICES = [
    {"id": "fee", "type": "flat", "amount": "49.00"},
    {"id": "tokens_in", "type": "graduated", "meter": "tokens", "where": {"direction": "input"}, "tiers": TIERS},
    {"id": "tokens_out", "type": "graduated", "meter": "tokens", "where": {"direction": "output"}, "tiers": TIERS},
    {"id": "calls", "type": "package", "meter": "calls", "package_size": "100", "package_price": "0.25"},
    {"id": "gb", "type": "unit", "meter": "gb", "unit_price": "0.0230"},
]
ATTRIBUTES = {
    "tokens": [
        '{"direction":"input","model":"a"}',
        '{"direction":"input","model":"b"}',
        '{"direction":"output","model":"a"}',
    ],
    "calls": ['{"endpoint":"/v1/search"}', '{"endpoint":"/v1/chat"}'],
    "gb": [None],
}
START = datetime(2026, 10, 1, tzinfo=UTC)


def run(quick: bool) -> list[Figure]:
    """Return the figures of rating; see the head of the module."""
    events, tenants, repeats = (200_000, 2_000, 3) if quick else (10_000_000, 50_000, 5)
    with tempfile.TemporaryDirectory() as folder:
        files = write_events(Path(folder), events, tenants)
        terms = company(tenants)
        return [*_aggregation(files, terms, events, repeats), *_whole_way(files, terms, events, repeats)]


def _aggregation(files: list[str], terms: Terms, events: int, repeats: int) -> list[Figure]:
    spans = billing_spans(terms, parse_period("2026-10"))

    def ours() -> Decimal:
        engine = open_evidence(files, Snapshot.of({"bench": 1}))
        try:
            aggregate(engine, *usage_questions(terms, spans))
            return engine.execute("SELECT sum(quantity) FROM usage WHERE selector_id <> 'calls'").fetchall()[0][0]
        finally:
            engine.close()

    def theirs() -> Decimal:
        frame = (
            polars.scan_parquet(files)
            .filter(polars.col("meter") != "calls")
            .group_by("tenant_id", "meter", "attributes")
            .agg(polars.col("quantity").sum())
            .collect()
        )
        return frame["quantity"].sum()

    if ours() != theirs():
        raise AssertionError("aggregation: the two do not agree, so no time is worth reporting")
    mine, other = median_seconds(ours, repeats), median_seconds(theirs, repeats)
    return [
        _rate("polars group by, no dedupe, no filters, no periods", events, other, None, "the alternative"),
        _rate("aggregation with cut, dedupe, filters, periods", events, mine, other / mine, "polars group by"),
    ]


def _whole_way(files: list[str], terms: Terms, events: int, repeats: int) -> list[Figure]:
    spans = billing_spans(terms, parse_period("2026-10"))

    def ours() -> dict[tuple[str, str], Decimal]:
        engine = open_evidence(files, Snapshot.of({"bench": 1}))
        try:
            rate(engine, terms, spans, START + timedelta(days=60))
            subtract_booked(engine, *booked_nothing(), "close")
            table = fetch(
                engine, "SELECT tenant_id, price_id, amount FROM invoice_line WHERE price_id <> 'fee' AND amount <> 0"
            )
            return dict(zip(zip(table["tenant_id"].to_pylist(), table["price_id"].to_pylist(), strict=True),
                            table["amount"].to_pylist(), strict=True))  # fmt: skip
        finally:
            engine.close()

    # The loop is slow: it gets a part of the events, and both get the same part for the comparison of amounts.
    part = min(events, 200_000)
    rows = pa.concat_tables([pyarrow.parquet.read_table(file) for file in files]).slice(0, part)

    def loop() -> dict[tuple[str, str], Decimal]:
        sums: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        for tenant, meter, quantity, attributes in zip(
            *(rows[name].to_pylist() for name in ("tenant_id", "meter", "quantity", "attributes")), strict=True
        ):
            price = meter
            if meter == "tokens":
                price = "tokens_in" if '"input"' in attributes else "tokens_out"
            sums[tenant, price] += 1 if meter == "calls" else quantity
        return {
            key: _decimal_worth(key[1], quantity) for key, quantity in sums.items() if _decimal_worth(key[1], quantity)
        }

    if part == events and ours() != loop():
        raise AssertionError("rating: the two do not agree, so no time is worth reporting")
    mine = events / median_seconds(ours, repeats)
    other = part / median_seconds(loop, max(1, repeats // 2))
    return [
        _rate(
            "plain Decimal loop over events already in memory",
            1,
            1 / other,
            None,
            "the alternative; no periods, no dedupe",
        ),
        _rate("events to invoice lines", 1, 1 / mine, mine / other, "plain Decimal loop"),
    ]


def _decimal_worth(price: str, quantity: Decimal) -> Decimal:
    if price == "gb":
        worth = quantity * Decimal("0.0230")
    elif price == "calls":
        # Decimal // cuts towards zero, so the started package is counted by adding 99 to a whole number of calls.
        worth = Decimal("0.25") * ((quantity + 99) // 100)
    else:
        worth, lower = Decimal(0), Decimal(0)
        for tier in TIERS:
            upper = min(quantity, Decimal(tier["up_to"])) if "up_to" in tier else quantity
            if upper > lower:
                worth += (upper - lower) * Decimal(tier["unit_price"])
                lower = upper
    return worth.quantize(Decimal("0.01"), "ROUND_HALF_UP")


def _rate(name: str, events: int, seconds: float, ratio: float | None, against: str) -> Figure:
    note = against if ratio is None else ""
    return Figure(
        name=name,
        value=events / seconds,
        unit="events/s",
        ratio=ratio,
        against=None if ratio is None else against,
        note=note,
    )


def company(tenants: int) -> Terms:
    """Return the terms of one plan for many tenants."""
    names = [f"tenant-{number:06}" for number in range(tenants)]
    meters = [
        {"name": "tokens", "attributes": ["direction", "model"]},
        {"name": "calls", "aggregation": "count"},
        {"name": "gb"},
    ]
    plan = Plan(name="pro", version=1, currency="USD", billing_period={}, prices=PRICES)
    held = [{"id": f"sub-{name}", "tenant": name, "plan": "pro", "version": 1, "from": "2026-01-01"} for name in names]
    return Terms.of(
        [Meter.model_validate(meter) for meter in meters],
        [plan],
        [Account(id="all", name="All", tenants=names)],
        [Subscription.model_validate(one) for one in held],
    )


def write_events(folder: Path, events: int, tenants: int, *, per_file: int = 1_000_000) -> list[str]:
    """Write a month of usage events as the lake would: sorted by tenant, meter and time, one file per million."""
    chance = np.random.default_rng(20261001)
    files = []
    for number, start in enumerate(range(0, events, per_file)):
        count = min(per_file, events - start)
        tenant = np.minimum(tenants - 1, (tenants * chance.random(count) ** 3).astype(np.int64))
        kind = chance.choice(3, count, p=[0.6, 0.3, 0.1])
        meter = np.array(["tokens", "calls", "gb"])[kind]
        variant = chance.integers(0, 6, count)
        attributes = [
            ATTRIBUTES[name][which % len(ATTRIBUTES[name])] for name, which in zip(meter, variant, strict=True)
        ]
        quantity = np.where(kind == 1, 1, chance.integers(1, 3_000, count))
        seconds = chance.integers(0, 31 * 86_400, count)
        instant = pa.array(seconds * 1_000_000 + int(START.timestamp()) * 1_000_000, pa.int64()).cast(
            pa.timestamp("us", "UTC")
        )
        table = pa.table(
            {
                "tenant_id": pa.array([f"tenant-{one:06}" for one in tenant]),
                "meter": pa.array(meter),
                "quantity": pa.array(quantity, pa.int64()).cast(pa.decimal128(38, 0)).cast(pa.decimal128(38, 9)),
                "event_time": instant,
                "recorded_at": instant,
                "producer_id": pa.array(["bench"] * count),
                "segment": pa.array(np.ones(count, np.int64)),
                "row": pa.array(np.arange(start, start + count, dtype=np.int32)),
                "idempotency_key": pa.nulls(count, pa.string()),
                "attributes": pa.array(attributes, pa.string()),
                "correction": pa.nulls(count, pa.string()),
            }
        )
        path = folder / f"part-{number:03}.parquet"
        ordered = table.sort_by([("tenant_id", "ascending"), ("meter", "ascending"), ("event_time", "ascending")])
        pyarrow.parquet.write_table(ordered.cast(usage_event_schema()), path, compression="zstd")
        files.append(str(path))
    return files
