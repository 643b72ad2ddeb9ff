"""Hours, licences and a world of the contract for tests of the AWS Marketplace adapters."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson

from billing_adapters.adapter import Intent
from billing_adapters.aws_marketplace_adapter import MeteredHour, MeterUsageAdapter, MeterUsageSettings
from billing_adapters.testing.aws_marketplace_server import MarketplaceFake
from billing_adapters.usage_totals import UsageTotal
from metering.clock import FixedClock

HOUR = timedelta(hours=1)
# The middle of a month: the contract's own beginning is noon of the 1st, when the month before is closed.
NOON = datetime(2026, 11, 15, 12, tzinfo=UTC)
REGION = "us-east-1"


def metered(quantity: str, *, ago: int = 1, dimension: str = "tokens", sent: str = "0", **more: Any) -> MeteredHour:
    start = NOON - ago * HOUR
    total = UsageTotal("buyer", "buyer", dimension, start, start + HOUR, Decimal(quantity), sent=Decimal(sent))
    return MeteredHour(total, **more)


class WorkloadWorld:
    """An instance in the buyer's account, or (`is_summed`) an agent whose calls are told apart by their tokens alone."""

    def __init__(self, *, is_summed: bool = False, instance: str = "i-1", now: datetime = NOON) -> None:
        self.clock = FixedClock(now)
        self.fake = MarketplaceFake(self.clock)
        self.is_summed = is_summed
        self.fake.workloads.add("i-1", product_code="code-1", is_summed=is_summed)
        self.fake.workloads.add("i-2", product_code="code-1", is_summed=is_summed)
        self.instance = instance
        # Making a client takes longer than all the rest.
        self.clients = {key: self.fake.client(key_id=key) for key in ("i-1", "i-2")}

    def adapter(self, **more: Any) -> MeterUsageAdapter:
        how = {"dedupes_by": "client_token"} if self.is_summed else {"instance": self.instance}
        settings = MeterUsageSettings(REGION, "code-1", **{**how, **more})  # type: ignore[arg-type]
        return MeterUsageAdapter(self.clients[self.instance], settings)

    def sources(self) -> Sequence[object]:
        return [metered("12.5"), metered("0.000001", ago=2), metered("9999999999.999999", ago=3, dimension="bytes")]

    def fail(self, how: str, times: int = 1) -> None:
        self.fake.fail(how, times)

    def holdings(self) -> dict[str, list[str]]:
        held: dict[str, list[str]] = {}
        for (who, name, at), quantity in self.fake.workloads.metered.items():
            held.setdefault(f"{REGION} {who} {name} {at}", []).append(f"{quantity:f}")
        for _, name, at, quantity in self.fake.workloads.summed:
            held.setdefault(f"{REGION} code-1 {name} {at}", []).append(f"{quantity:f}")
        return held

    def expected(self, intent: Intent) -> str:
        return str(orjson.loads(intent.payload)["record"]["UsageQuantityAsDecimal"])
