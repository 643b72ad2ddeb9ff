"""MeterUsage: hours of software that runs in the buyer's own account (AMI, containers, Bedrock AgentCore), one record a call.

Enters: a `MeteredHour` of a dimension. Leaves: an answer per hour. Refuses: a repeat that AWS could not recognise as one, and a
client token that the SDK invents: it is made of our delivery's key. Source: reference/providers.md, section 2.3.

AWS tells records apart in one of two ways, and the settings say which. `hour`: by instance (EC2 instance, ECS task, EKS pod),
dimension and hour; the first write stays, and an identical repeat answers the same record. `client_token`: by the token alone,
for Bedrock AgentCore, where all calls are summed. Calls are signed by the role of the workload, so an hour that one instance may
have told cannot be repeated by another: AWS would bill both. Such an hour is parked, for a person to look at the seller's report.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import orjson

from billing_adapters.adapter import Answer, Capabilities, Found, Intent, Numbers, Window
from billing_adapters.aws_marketplace_adapter.answers import answered
from billing_adapters.aws_marketplace_adapter.clients import make_client
from billing_adapters.aws_marketplace_adapter.records import (
    DECIMALS_MAX,
    allocations,
    check_decimals,
    decimals_for,
    quantity_field,
    refusal_of,
)
from billing_adapters.outcomes import Outcome
from billing_adapters.usage_totals import UsageTotal, by_first_write
from metering.clock import iso_utc, to_us

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from decimal import Decimal

    from billing_adapters.adapter import Desk, Item

# Six hours back; the month before ends at 06:00 UTC on the 1st, which is never sooner.
WINDOW = Window(oldest=timedelta(hours=6))
CAPABILITIES = Capabilities(
    name="aws_meter_usage",
    kinds=("metered_hour",),
    grain="hour",
    natural_key=("region", "instance", "dimension", "hour"),
    numbers=Numbers("decimal_text", DECIMALS_MAX, 10),
    zero="locks",
    repeat_same="safe",
    repeat_other="refused",
    read_back=None,
    downwards=("later hours are lowered", "billing adjustment request"),
    upwards=("a later hour",),
    window=WINDOW,
    calls_per_s=10,
)
INSTANCE_VARIABLE = "TALLYBOOK_INSTANCE"


@dataclass(frozen=True, slots=True)
class MeterUsageSettings:
    """`region` is that of the workload: AWS takes no other. `instance` names the EC2 instance, ECS task or EKS pod.

    `dedupes_by`: what AWS tells records apart by, see the module. `decimals` and `decimals_of` as for BatchMeterUsage.
    """

    region: str
    product_code: str
    instance: str = ""
    dedupes_by: Literal["hour", "client_token"] = "hour"
    decimals: int = DECIMALS_MAX
    decimals_of: Mapping[str, int] | None = None
    sends_zeros: bool = False

    def __post_init__(self) -> None:
        check_decimals(self.decimals, self.decimals_of)
        if self.dedupes_by not in {"hour", "client_token"}:
            raise ValueError(f"dedupes_by is hour or client_token, not {self.dedupes_by!r}")
        if self.dedupes_by == "hour" and not self.instance:
            raise ValueError(f"name the instance, task or pod: `instance`, or {INSTANCE_VARIABLE} in the environment")

    @property
    def teller(self) -> str:
        """Return whose record it is to AWS: the instance; of a product whose tokens tell calls apart, the product."""
        return self.instance if self.dedupes_by == "hour" else self.product_code


@dataclass(frozen=True, slots=True)
class MeteredHour:
    """A closed hour of a dimension, `total.name`: a source of `prepare`. `shares` as in `HourTotal`."""

    total: UsageTotal
    shares: tuple[tuple[Mapping[str, str], Decimal], ...] = ()


@dataclass(frozen=True, slots=True)
class MeterUsageAdapter:
    """Delivers hours, one a call. `client` is boto3's `meteringmarketplace` with the credentials of the workload's role."""

    client: Any
    settings: MeterUsageSettings

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    def prepare(self, source: object) -> Sequence[Intent]:
        """Return the record of a `MeteredHour`; none of an hour in which there is nothing to tell."""
        if not isinstance(source, MeteredHour):
            return []
        decimals = decimals_for(source.total.name, self.settings.decimals, self.settings.decimals_of)
        intent = _intent(source, self.settings, decimals)
        return [intent] if intent.quantity or self.settings.sends_zeros else []

    def send(self, items: Sequence[Item], desk: Desk) -> Sequence[Answer]:
        return [self._send(item, desk) for item in items]

    def read_back(self, items: Sequence[Item], desk: Desk) -> Sequence[Found]:
        return [Found("unclear", "AWS answers no questions about an hour")] * len(items)

    def _send(self, item: Item, desk: Desk) -> Answer:
        body = orjson.loads(item.payload)
        if item.is_resumed and body["teller"] != self.settings.teller:
            return Answer(
                Outcome.REJECTED_PERMANENT,
                f"{body['teller']} began to tell this hour, and AWS would bill it again from {self.settings.teller}; "
                "look for it in the seller's report",
            )
        record = {**body["record"], "Timestamp": datetime.fromtimestamp(body["record"]["Timestamp"], UTC)}
        desk.spend()
        answer = answered(CAPABILITIES.name, lambda: self.client.meter_usage(ClientToken=item.delivery_id, **record))
        if isinstance(answer, Answer):
            return answer
        request_id = answer.get("ResponseMetadata", {}).get("RequestId")
        return Answer(Outcome.ACCEPTED, "", answer.get("MeteringRecordId"), request_id=request_id)


def make_meter_usage(settings: Mapping[str, Any]) -> MeterUsageAdapter:
    """Return the adapter of the section [delivery.aws_meter_usage]; credentials are boto3's business."""
    chosen = dict(settings)
    address = chosen.pop("address", None)
    made = MeterUsageSettings(**{"instance": os.environ.get(INSTANCE_VARIABLE, ""), **chosen})
    return MeterUsageAdapter(make_client("meteringmarketplace", made.region, address), made)


def _intent(hour: MeteredHour, settings: MeterUsageSettings, decimals: int) -> Intent:
    total = hour.total
    quantity, _ = by_first_write(total, decimals)
    record: dict[str, Any] = {
        "ProductCode": settings.product_code,
        "UsageDimension": total.name,
        "Timestamp": to_us(total.start) // 1_000_000,
        **quantity_field("UsageQuantity", quantity, decimals),
    }
    if hour.shares:
        record["UsageAllocations"] = allocations(quantity, hour.shares, decimals)
    key = f"{settings.region} {settings.teller} {total.name} {iso_utc(total.start)}"
    return Intent(
        kind="metered_hour",
        natural_key=key,
        payload=orjson.dumps({"teller": settings.teller, "record": record}, option=orjson.OPT_SORT_KEYS).decode(),
        account_id=total.account_id,
        subject=total.subscription_id,
        # The hour is named by what was used, not by what was carried into it: asked again later, it is the same hour.
        content=key,
        rank=iso_utc(total.start),
        quantity=quantity,
        series=total.series,
        recover_by=WINDOW.recover_by(total.start),
        refusal=refusal_of(total.name, quantity, decimals, hour.shares),
    )
