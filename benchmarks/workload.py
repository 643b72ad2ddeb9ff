"""The workload of the benchmarks of rating: a company with many tenants, ten prices, and a month of usage events in a lake.

Enters: how many events, tenants, prices and tiers. Leaves: a lake that was written by its own API, one segment per day, and
the terms of sale. The same numbers give the same events: the seed is fixed.
Refuses: to be kind. Tenants are skewed (the largest has thousands of times the events of the median), attributes are text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from metering.batch import SegmentBatch
from metering.catalog import Meter
from metering.events import dead_letter_schema, usage_event_schema
from metering.totals import control_totals
from rating.plans import Account, Plan, Subscription
from rating.terms import Terms

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metering.lake import Lake

START = datetime(2026, 10, 1, tzinfo=UTC)
DAYS = 31
HOURS = 720
MONTH = "2026-10"
YEAR = "2026"
DAYS_OF_YEAR = 365
AFTER = START + timedelta(days=60)
PRODUCER = "bench"
# What is used: a meter and the attributes as they are written, and how often out of a hundred.
KINDS = (
    ("tokens", '{"direction":"input","model":"a"}', 20),
    ("tokens", '{"direction":"input","model":"b"}', 10),
    ("tokens", '{"direction":"output","model":"a"}', 14),
    ("tokens", '{"direction":"output","model":"b"}', 6),
    ("calls", '{"endpoint":"/v1/chat"}', 14),
    ("calls", '{"endpoint":"/v1/search"}', 8),
    ("egress_gb", '{"region":"eu"}', 6),
    ("egress_gb", '{"region":"us"}', 6),
    ("images", None, 5),
    ("minutes", None, 5),
    ("storage_gb", None, 6),
)
METERS: tuple[dict[str, Any], ...] = (
    {"name": "tokens", "attributes": ["direction", "model"]},
    {"name": "calls", "aggregation": "count", "attributes": ["endpoint"]},
    {"name": "egress_gb", "attributes": ["region"]},
    {"name": "images"},
    {"name": "minutes"},
    {"name": "storage_gb", "aggregation": "max"},
)
TIERS = (
    {"up_to": "1000", "unit_price": "0"},
    {"up_to": "100000", "unit_price": "0.0020"},
    {"up_to": "10000000", "unit_price": "0.0016"},
    {"unit_price": "0.0012"},
)
PRICES: tuple[dict[str, Any], ...] = (
    {"id": "fee", "type": "flat", "amount": "49.00"},
    {"id": "tokens_in", "type": "graduated", "meter": "tokens", "where": {"direction": "input"}, "tiers": TIERS},
    {"id": "tokens_out", "type": "graduated", "meter": "tokens", "where": {"direction": "output"}, "tiers": TIERS},
    {"id": "chat", "type": "package", "meter": "calls", "where": {"endpoint": "/v1/chat"}, "package_size": "100",
     "package_price": "0.25"},
    {"id": "search", "type": "unit", "meter": "calls", "where": {"endpoint": "/v1/search"}, "unit_price": "0.0025"},
    {"id": "egress_eu", "type": "unit", "meter": "egress_gb", "where": {"region": "eu"}, "unit_price": "0.0230"},
    {"id": "egress_us", "type": "unit", "meter": "egress_gb", "where": {"region": "us"}, "unit_price": "0.0310"},
    {"id": "images", "type": "volume", "meter": "images", "tiers": TIERS},
    {"id": "minutes", "type": "graduated", "meter": "minutes", "tiers": TIERS},
    {"id": "storage", "type": "unit", "meter": "storage_gb", "unit_price": "0.1150"},
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Size:
    """How large a workload is."""

    events: int
    tenants: int


def tenant_names(tenants: int) -> list[str]:
    """Return the ids of the tenants, in order."""
    return [f"tenant-{number:07}" for number in range(tenants)]


def some_prices(prices: int, tiers: int) -> tuple[dict[str, Any], ...]:
    """Return the first so many prices, more than ten by asking the same again; their tiers cut into so many steps."""
    steps: list[dict[str, str]] = [
        {"up_to": str(1000 * (number + 1)), "unit_price": "0.002"} for number in range(tiers - 1)
    ]
    cut = TIERS if tiers == len(TIERS) else (*steps, {"unit_price": "0.0012"})
    asked = []
    for number in range(prices):
        price = dict(PRICES[number % len(PRICES)])
        price["id"] += "" if number < len(PRICES) else f"_{number // len(PRICES)}"
        asked.append({**price, "tiers": cut} if "tiers" in price else price)
    return tuple(asked)


def company(tenants: int, prices: tuple[dict[str, Any], ...] = PRICES) -> Terms:
    """Return the terms of one plan for many tenants, by the calendar in UTC."""
    names = tenant_names(tenants)
    plan = Plan(name="pro", version=1, currency="USD", billing_period={}, prices=prices)
    held = [{"id": f"sub-{name}", "tenant": name, "plan": "pro", "version": 1, "from": "2026-01-01"} for name in names]
    return Terms.of(
        [Meter.model_validate(meter) for meter in METERS],
        [plan],
        # A hundred tenants per billing account: as many invoices as a company of that size would send.
        [Account(id=f"account-{at:07}", name="A", tenants=names[at : at + 100]) for at in range(0, tenants, 100)],
        [Subscription.model_validate(one) for one in held],
    )


def fill(lake: Lake, size: Size) -> None:
    """Append a month of usage events, one segment of one producer per day."""
    for batch in month(size):
        lake.append([batch])


def month(size: Size) -> Iterator[SegmentBatch]:
    """Yield the segments of a month, one per day."""
    yield from _days(size, START, DAYS)


def fill_year(lake: Lake, size: Size) -> None:
    """Append a year of usage events, one segment of one producer per day."""
    for batch in _days(size, datetime(int(YEAR), 1, 1, tzinfo=UTC), DAYS_OF_YEAR):
        lake.append([batch])


def _days(size: Size, start: datetime, days: int) -> Iterator[SegmentBatch]:
    names = pa.array(tenant_names(size.tenants))
    for day in range(days):
        count = size.events * (day + 1) // days - size.events * day // days
        yield segment(names, day + 1, count, start + timedelta(days=day), 86_400)


def one_hour(size: Size, *, of_few: bool = False) -> SegmentBatch:
    """Return the segment of one more hour at the end of the month: a 720th of its events.

    `of_few`: all of them of a 720th of the tenants, and after the other hour; else of all tenants, as they come.
    """
    names = tenant_names(size.tenants)
    chosen = names[::HOURS] if of_few else names
    number = DAYS + (2 if of_few else 1)
    return segment(pa.array(chosen), number, size.events // HOURS, START + timedelta(hours=743), 3600)


def lines_touched(batch: SegmentBatch) -> int:
    """Return how many invoice lines, of a tenant and a price of `PRICES`, have a usage event in a segment."""
    price_of = {
        (meter, attributes): _price_asked(meter, json.loads(attributes or "{}")) for meter, attributes, _ in KINDS
    }
    kinds = batch.events.group_by(["tenant_id", "meter", "attributes"]).aggregate([])
    rows = zip(*(kinds[name].to_pylist() for name in ("tenant_id", "meter", "attributes")), strict=True)
    return len({(tenant, price_of[meter, attributes]) for tenant, meter, attributes in rows})


def _price_asked(meter: str, attributes: dict[str, str]) -> str:
    """Return the one price that takes events of a meter with these attributes."""
    [price_id] = [
        price["id"]
        for price in PRICES
        if price.get("meter") == meter and price.get("where", {}).items() <= attributes.items()
    ]
    return str(price_id)


def segment(names: pa.Array, number: int, count: int, begun: datetime, seconds: int) -> SegmentBatch:
    """Return one segment of usage events spread over some seconds."""
    chance = np.random.default_rng(20261001 + number)
    weights = np.array([weight for _, _, weight in KINDS]) / 100
    tenant = (len(names) * chance.random(count) ** 3).astype(np.int32)
    kind = chance.choice(len(KINDS), count, p=weights).astype(np.int32)
    meters = pa.array([meter for meter, _, _ in KINDS])
    is_call = np.array([meter == "calls" for meter, _, _ in KINDS])[kind]
    quantity = np.where(is_call, 1, chance.integers(1, 3_000, count))
    micros = np.sort(chance.integers(0, seconds * 1_000_000, count)) + int(begun.timestamp()) * 1_000_000
    instants = pa.array(micros).cast(pa.timestamp("us", tz="UTC"))
    events = pa.table(
        [
            names.take(pa.array(tenant)),
            meters.take(pa.array(kind)),
            pa.array(quantity).cast(pa.decimal128(38, 0)).cast(pa.decimal128(38, 9)),
            instants,
            instants,
            pa.repeat(pa.scalar(PRODUCER), count),
            pa.repeat(pa.scalar(number, pa.int64()), count),
            pa.array(np.arange(count, dtype=np.int32)),
            pa.nulls(count, pa.string()),
            pa.array([attributes for _, attributes, _ in KINDS], pa.string()).take(pa.array(kind)),
            pa.nulls(count, pa.string()),
        ],
        schema=usage_event_schema(),
    )
    letters = dead_letter_schema().empty_table()
    return SegmentBatch(
        producer_id=PRODUCER,
        segment=number,
        kind="batch",
        rows=count,
        rows_before=0,
        sealed_at=int(micros[-1]) if count else 0,
        sha256="0" * 64,
        previous_sha256=None,
        events=events,
        dead_letters=letters,
        totals=control_totals(events, letters),
    )
