"""What AWS Marketplace tells without being asked: subscriptions, licences, agreements and entitlements, read from a queue.

Enters: the text of a message, which is an envelope of EventBridge or of SNS. Leaves: a `Notice`, or None for what is not of the
Marketplace. Refuses: what says that it is and cannot be read (EventRefused); it stays in the queue.
Source: reference/providers.md, sections 2.6 and 6.

    kind                  of older products                 of products with licences
    may_meter             subscribe-success                 License Updated
    failed                subscribe-fail
    ending                unsubscribe-pending               License Deprovisioned
    ended                 unsubscribe-success
    entitlements_changed  entitlement-updated
    agreement                                               Purchase Agreement Created, Amended, Ended

The same fact arrives twice where we are both seller and vendor: the id is that of the request, and the suffix of the kind is cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import orjson

from billing_adapters.aws_marketplace_adapter.buyers import licence_of
from billing_adapters.errors import EventRefused

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["may_meter", "failed", "ending", "ended", "entitlements_changed", "agreement"]
SOURCE = "aws.agreement-marketplace"
_OF_ACTIONS: Mapping[str, Kind] = {
    "subscribe-success": "may_meter",
    "subscribe-fail": "failed",
    "unsubscribe-pending": "ending",
    "unsubscribe-success": "ended",
    "entitlement-updated": "entitlements_changed",
}
_OF_EVENTS: Mapping[str, Kind] = {
    "License Updated": "may_meter",
    "License Deprovisioned": "ending",
    "Purchase Agreement Created": "agreement",
    "Purchase Agreement Amended": "agreement",
    "Purchase Agreement Ended": "agreement",
}


@dataclass(frozen=True, slots=True)
class Notice:
    """One fact, told at least once. `happened_at` is AWS's own time (UTC). `licence` is our name of it, see `licence_of`.

    `starts_at` is of an agreement: when it begins.
    """

    notice_id: str
    kind: Kind
    happened_at: datetime
    licence: str | None = None
    agreement_id: str | None = None
    product: str | None = None
    starts_at: datetime | None = None
    detail: str = "{}"


def read_notice(text: str) -> Notice | None:
    """Return what a message says; None where it is none of the Marketplace's. Raises EventRefused."""
    try:
        body = orjson.loads(text)
        if not isinstance(body, dict):
            return None
        if body.get("source") == SOURCE:
            return _of_event(body)
        if body.get("Type") == "Notification":
            return _of_action(orjson.loads(body["Message"]), str(body["MessageId"]), _instant(body["Timestamp"]))
        if body.get("action") in _OF_ACTIONS:
            raise EventRefused(
                "a bare notification has neither id nor time; switch raw message delivery of the topic off"
            )
    except (ValueError, KeyError, TypeError, AttributeError) as wrong:
        raise EventRefused(f"a message of AWS Marketplace cannot be read ({type(wrong).__name__}: {wrong})") from wrong
    return None


def _of_event(body: Mapping[str, Any]) -> Notice | None:
    name = str(body["detail-type"]).rsplit(" - ", 1)[0]
    kind = _OF_EVENTS.get(name)
    if kind is None:
        return None
    detail = body["detail"]
    arn, agreement = (detail.get("license") or {}).get("arn"), detail.get("agreement") or {}
    if kind in {"may_meter", "ending"} and not arn:
        raise EventRefused(f"{name} names no licence")
    product = (detail.get("product") or {}).get("code") or (detail.get("product") or {}).get("id")
    starts = agreement.get("startTime")
    return Notice(
        # One request of AWS, told to us as seller and as vendor; two facts of one request differ in their names.
        notice_id=f"{name} {detail.get('requestId') or body['id']}",
        kind=kind,
        happened_at=_instant(body["time"]),
        licence=licence_of("", arn, None) if arn else None,
        agreement_id=agreement.get("id"),
        product=product,
        starts_at=None if starts is None else _instant(starts),
        detail=orjson.dumps(detail, option=orjson.OPT_SORT_KEYS).decode(),
    )


def _of_action(message: Mapping[str, Any], message_id: str, at: datetime) -> Notice | None:
    kind = _OF_ACTIONS.get(str(message.get("action")))
    if kind is None:
        return None
    product = str(message["product-code"])
    return Notice(
        notice_id=f"sns {message_id}",
        kind=kind,
        happened_at=at,
        licence=licence_of(product, None, message["customer-identifier"]),
        product=product,
        detail=orjson.dumps(message, option=orjson.OPT_SORT_KEYS).decode(),
    )


def _instant(text: Any) -> datetime:
    if not isinstance(text, str):
        return datetime.fromtimestamp(text, UTC)
    read = datetime.fromisoformat(text)
    return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
