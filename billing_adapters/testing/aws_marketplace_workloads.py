"""MeterUsage as AWS answers it: software in the buyer's account, each call signed by the role of its workload.

Enters: MeterUsage as botocore sends it; the key id of the signature names the workload. Leaves: record ids.
Refuses: other regions, other products, buyers without a subscription, hours that are too old, in the future or taken.
Source: reference/providers.md, section 2.3.

An instance, task or pod is told apart by dimension and hour: the first write stays, an identical repeat answers the same record.
Bedrock AgentCore is told apart by the client token alone, and all its calls are summed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from billing_adapters.testing.aws_marketplace_records import check_allocations
from billing_adapters.testing.aws_refusal import Refused
from billing_adapters.testing.aws_wire import instant_of
from metering.clock import from_us, iso_utc

if TYPE_CHECKING:
    from billing_adapters.testing.aws_wire import Asked
    from metering.clock import Clock


@dataclass(frozen=True, slots=True)
class _Workload:
    product_code: str
    is_summed: bool
    is_entitled: bool
    dimensions: frozenset[str]


class Workloads:
    """`metered` is what counts of instances: (instance, dimension, hour) -> quantity; `summed` of AgentCore: every call."""

    def __init__(self, clock: Clock, region: str) -> None:
        self.metered: dict[tuple[str, str, str], Decimal] = {}
        self.allocated: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        self.summed: list[tuple[str, str, str, Decimal]] = []
        self._clock = clock
        self._region = region
        self._held: dict[str, _Workload] = {}
        self._by_token: dict[str, tuple[dict[str, Any], str]] = {}
        self._records: dict[tuple[str, str, str], str] = {}

    def add(
        self,
        key_id: str,
        *,
        product_code: str,
        is_summed: bool = False,
        is_entitled: bool = True,
        dimensions: frozenset[str] = frozenset(),
    ) -> None:
        """Let a workload run, whose role signs with `key_id`. Again: change it. No dimensions: any."""
        self._held[key_id] = _Workload(product_code, is_summed, is_entitled, dimensions)

    def meter_usage(self, asked: Asked, _how: str | None) -> dict[str, Any]:
        """Answer one call."""
        request, workload = asked.parameters, self._held.get(asked.key_id)
        if asked.region != self._region:
            raise Refused("InvalidEndpointRegionException", f"the workload is in {self._region}, not {asked.region}")
        if request.get("DryRun"):
            raise (
                Refused("UnauthorizedException", "this role may not meter")
                if workload is None
                else Refused("DryRunOperation", "it would have been metered")
            )
        if workload is None:
            raise Refused("AccessDeniedException", f"{asked.key_id} is the role of no workload")
        self._check(request, workload)
        quantity = Decimal(request.get("UsageQuantityAsDecimal") or request.get("UsageQuantity", 0))
        token = request.get("ClientToken")
        kept = None if token is None else self._by_token.get(token)
        if kept is not None and kept[0] != request:
            raise Refused("IdempotencyConflictException", f"{token} came with other parameters before")
        if kept is not None:
            return {"MeteringRecordId": kept[1]}
        record_id = self._take(asked.key_id, workload, request, quantity)
        if token is not None:
            self._by_token[token] = (request, record_id)
        return {"MeteringRecordId": record_id}

    def _check(self, request: dict[str, Any], workload: _Workload) -> None:
        if request["ProductCode"] != workload.product_code:
            raise Refused("InvalidProductCodeException", f"the workload is not of product {request['ProductCode']}")
        if not workload.is_entitled:
            raise Refused("CustomerNotEntitledException", "the buyer has no subscription")
        if workload.dimensions and request["UsageDimension"] not in workload.dimensions:
            raise Refused("InvalidUsageDimensionException", f"no dimension {request['UsageDimension']}")
        if "UsageQuantity" in request and "UsageQuantityAsDecimal" in request:
            raise Refused("ValidationException", "UsageQuantity and UsageQuantityAsDecimal exclude each other")
        now, at = from_us(self._clock.now_us()), instant_of(request["Timestamp"])
        if at > now or now - at >= timedelta(hours=6):
            raise Refused("TimestampOutOfBoundsException", f"{iso_utc(at)} is out of bounds at {iso_utc(now)}")
        if "UsageAllocations" in request:
            check_allocations(request, Refused, "UsageQuantity")

    def _take(self, who: str, workload: _Workload, request: dict[str, Any], quantity: Decimal) -> str:
        hour = _hour(instant_of(request["Timestamp"]))
        key = (who, request["UsageDimension"], iso_utc(hour))
        if workload.is_summed:
            self.summed.append((*key, quantity))
            return f"increment-{len(self.summed):08}"
        if self.metered.setdefault(key, quantity) != quantity:
            raise Refused("DuplicateRequestException", f"{key} is taken with {self.metered[key]}")
        self.allocated.setdefault(key, request.get("UsageAllocations", []))
        return self._records.setdefault(key, f"usage-{len(self._records) + 1:08}")


def _hour(instant: datetime) -> datetime:
    return instant.replace(minute=0, second=0, microsecond=0)
