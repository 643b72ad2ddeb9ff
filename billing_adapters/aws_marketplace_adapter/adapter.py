"""BatchMeterUsage: hours to AWS Marketplace, 25 a call, one product a call, each hour once for ever.

Enters: intents of hours. Leaves: an answer per hour. Refuses: retries of botocore's own (the outbox knows more), and to take
`DuplicateRecord` for a success: it means that AWS holds *another* quantity, for an identical repeat is a `Success`.
Source: reference/providers.md, sections 2.1 and 10.

A batch that AWS refuses whole, because of one record, is BATCH_POISONED: the deliverer halves it until the one is found. AWS
cannot be asked what it holds of an hour; the identical record, sent again, is the question, for as long as the hour's window is
open.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from billing_adapters.adapter import Answer, Capabilities, Found, Numbers
from billing_adapters.aws_marketplace_adapter.answers import answered
from billing_adapters.aws_marketplace_adapter.clients import make_client
from billing_adapters.aws_marketplace_adapter.hours import WINDOW, HourTotal, hour_intent
from billing_adapters.aws_marketplace_adapter.records import (
    DECIMALS_MAX,
    WIRE_BYTES_MAX,
    check_decimals,
    decimals_for,
    wire_bytes,
)
from billing_adapters.outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from billing_adapters.adapter import Desk, Intent, Item

BATCH_RECORDS = 25
CAPABILITIES = Capabilities(
    name="aws_marketplace",
    kinds=("hour",),
    grain="hour",
    natural_key=("region", "licence", "dimension", "hour"),
    numbers=Numbers("decimal_text", DECIMALS_MAX, 10),
    zero="locks",
    repeat_same="safe",
    repeat_other="refused",
    read_back=None,
    downwards=("later hours are lowered", "billing adjustment request"),
    upwards=("a later hour",),
    window=WINDOW,
    batch_items=BATCH_RECORDS,
    batch_bytes=WIRE_BYTES_MAX,
    calls_per_s=10,
)
_IDENTITY = ("LicenseArn", "CustomerAWSAccountId", "CustomerIdentifier", "Dimension")
_STATUSES = {
    "Success": Outcome.ACCEPTED,
    "DuplicateRecord": Outcome.CONFLICT_OTHER_VALUE,
    "CustomerNotSubscribed": Outcome.NOT_ENTITLED,
}


@dataclass(frozen=True, slots=True)
class MarketplaceSettings:
    """`region` is part of every key: an hour told in two regions is billed twice, so it is named, never taken from a machine.

    `decimals`: how fine a dimension is, 6 at most, 0 for whole numbers; `decimals_of` names those that differ.
    `sends_zeros`: AWS advises a 0 for every closed hour; it locks the hour.
    """

    region: str
    decimals: int = DECIMALS_MAX
    decimals_of: Mapping[str, int] | None = None
    sends_zeros: bool = False

    def __post_init__(self) -> None:
        check_decimals(self.decimals, self.decimals_of)


@dataclass(frozen=True, slots=True)
class MarketplaceAdapter:
    """Delivers hours. `client` is boto3's `meteringmarketplace`, made by `clients.make_client` or like it: without retries."""

    client: Any
    settings: MarketplaceSettings

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    def prepare(self, source: object) -> Sequence[Intent]:
        """Return the record of an `HourTotal`; none of an hour in which there is nothing to tell."""
        if not isinstance(source, HourTotal):
            return []
        decimals = decimals_for(source.total.name, self.settings.decimals, self.settings.decimals_of)
        intent = hour_intent(source, self.settings.region, decimals)
        return [intent] if intent.quantity or self.settings.sends_zeros else []

    def send(self, items: Sequence[Item], desk: Desk) -> Sequence[Answer]:
        answers: dict[str, Answer] = {}
        for part in _calls(items):
            desk.spend()
            answers.update(self._call(part))
        return [answers[item.delivery_id] for item in items]

    def read_back(self, items: Sequence[Item], desk: Desk) -> Sequence[Found]:
        return [Found("unclear", "AWS answers no questions about an hour")] * len(items)

    def _call(self, items: Sequence[Item]) -> dict[str, Answer]:
        bodies = {item.delivery_id: orjson.loads(item.payload) for item in items}
        product_code = next(iter(bodies.values()))["product_code"]
        records = [_timed(body["record"]) for body in bodies.values()]
        product = {} if product_code is None else {"ProductCode": product_code}
        answer = answered(
            CAPABILITIES.name,
            lambda: self.client.batch_meter_usage(UsageRecords=records, **product),
            len(items),
        )
        if isinstance(answer, Answer):
            return {delivery_id: _of_licence(answer, body) for delivery_id, body in bodies.items()}
        return _judged(answer, bodies)


def make(settings: Mapping[str, Any]) -> MarketplaceAdapter:
    """Return the adapter of the section [delivery.aws_marketplace]; credentials are boto3's business."""
    chosen = dict(settings)
    address = chosen.pop("address", None)
    made = MarketplaceSettings(**chosen)
    return MarketplaceAdapter(make_client("meteringmarketplace", made.region, address), made)


def _calls(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Yield what one call takes: one product, one style of identity, and less than a megabyte."""
    groups: dict[tuple[str, bool], list[tuple[Item, int]]] = {}
    for item in items:
        body = orjson.loads(item.payload)
        key = (body["product"], body["product_code"] is not None)
        groups.setdefault(key, []).append((item, wire_bytes(body["record"])))
    for group in groups.values():
        part: list[Item] = []
        filled = 0
        for item, size in group:
            if part and filled + size > WIRE_BYTES_MAX:
                yield part
                part, filled = [], 0
            part.append(item)
            filled += size
        yield part


def _timed(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "Timestamp": datetime.fromtimestamp(record["Timestamp"], UTC)}


def _of_licence(answer: Answer, body: Mapping[str, Any]) -> Answer:
    """A licence that is over takes nothing more: what it refuses alone came too late."""
    is_late = answer.outcome is Outcome.REJECTED_PERMANENT and answer.code == "InvalidLicenseException"
    return replace(answer, outcome=Outcome.EXPIRED) if is_late and body.get("is_ending") else answer


def _is_of(found: Mapping[str, Any], sent: Mapping[str, Any]) -> bool:
    """Is a record of an answer the one that was sent? AWS answers with instants in any zone, and may add who the customer is."""
    at = found["Timestamp"]
    seconds = int(at.timestamp()) if isinstance(at, datetime) else int(at)
    same = (name for name in _IDENTITY if name in sent)
    return seconds == sent["Timestamp"] and all(found.get(name) == sent[name] for name in same)


def _judged(answer: Mapping[str, Any], bodies: Mapping[str, Any]) -> dict[str, Answer]:
    request_id = answer.get("ResponseMetadata", {}).get("RequestId")
    results, unprocessed = answer.get("Results", []), answer.get("UnprocessedRecords", [])
    found: dict[str, Answer] = {}
    for delivery_id, body in bodies.items():
        one = next((one for one in results if _is_of(one["UsageRecord"], body["record"])), None)
        if any(_is_of(left, body["record"]) for left in unprocessed):
            found[delivery_id] = Answer(Outcome.RETRY_SAFE, "left unprocessed", request_id=request_id)
        elif one is not None:
            outcome = _STATUSES.get(one["Status"], Outcome.UNKNOWN)
            record_id = one.get("MeteringRecordId")
            found[delivery_id] = Answer(outcome, one["Status"], record_id, code=one["Status"], request_id=request_id)
        else:
            found[delivery_id] = Answer(Outcome.UNKNOWN, "the answer does not speak of it", request_id=request_id)
    return found
