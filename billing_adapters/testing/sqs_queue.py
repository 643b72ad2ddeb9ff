"""A queue of SQS, as far as a reader of notices needs it: at least once, in no order, hidden while somebody has a message.

Enters: ReceiveMessage and DeleteMessage as botocore sends them. Leaves: messages. Refuses: handles that it never gave.
`fake.queue.send(body)` puts a message in; `envelope_of_sns` is what a topic makes of one. Source: reference/providers.md,
section 6.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from billing_adapters.testing.aws_refusal import Refused
from metering.clock import iso_utc

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from billing_adapters.testing.aws_wire import Asked
    from metering.clock import Clock

VISIBILITY_S = 30


@dataclass(slots=True)
class _Message:
    body: str
    visible_at_us: int
    receives: int = 0


class Queue:
    """One queue, whatever its address. What is not deleted in time comes again. `held` counts what is in it still."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._messages: dict[str, _Message] = {}
        self._sent = 0

    @property
    def held(self) -> int:
        return len(self._messages)

    def send(self, body: str) -> None:
        """Put a message into the queue."""
        self._sent += 1
        self._messages[f"m-{self._sent:06}"] = _Message(body, self._clock.now_us())

    def receive_message(self, asked: Asked, _how: str | None) -> dict[str, Any]:
        """Answer what is visible now, the newest first: a standard queue keeps no order."""
        most, now_us = asked.parameters.get("MaxNumberOfMessages", 1), self._clock.now_us()
        if not 1 <= most <= 10:
            raise Refused("InvalidParameterValue", f"{most} messages; 1 to 10 are given at once")
        hidden_s = asked.parameters.get("VisibilityTimeout", VISIBILITY_S)
        given: list[dict[str, Any]] = []
        for name, message in sorted(self._messages.items(), reverse=True):
            if message.visible_at_us <= now_us and len(given) < most:
                message.visible_at_us, message.receives = now_us + hidden_s * 1_000_000, message.receives + 1
                given.append(
                    {
                        "MessageId": name,
                        "ReceiptHandle": f"{name}/{message.receives}",
                        "MD5OfBody": hashlib.md5(message.body.encode(), usedforsecurity=False).hexdigest(),
                        "Body": message.body,
                    }
                )
        return {"Messages": given} if given else {}

    def delete_message(self, asked: Asked, _how: str | None) -> dict[str, Any]:
        """Delete a message; again is harmless."""
        handle = asked.parameters["ReceiptHandle"]
        if "/" not in handle:
            raise Refused("ReceiptHandleIsInvalid", f"{handle} was never given")
        self._messages.pop(handle.split("/")[0], None)
        return {}


def envelope_of_sns(message: Mapping[str, Any], message_id: str, at: datetime) -> str:
    """Return what a topic puts into a queue (without raw message delivery)."""
    body = {
        "Type": "Notification",
        "MessageId": message_id,
        "TopicArn": "arn:aws:sns:us-east-1:287250355862:aws-mp-subscription-notification-code-1",
        "Message": orjson.dumps(message).decode(),
        "Timestamp": iso_utc(at),
        "SignatureVersion": "1",
        "Signature": "of-a-fake",
    }
    return orjson.dumps(body).decode()


def envelope_of_event(kind: str, detail: Mapping[str, Any], event_id: str, at: datetime) -> str:
    """Return what EventBridge puts into a queue. `kind` is the detail-type with its suffix."""
    body = {
        "version": "0",
        "id": event_id,
        "detail-type": kind,
        "source": "aws.agreement-marketplace",
        "account": "123456789012",
        "time": iso_utc(at),
        "region": "us-east-1",
        "resources": [],
        "detail": dict(detail),
    }
    return orjson.dumps(body).decode()
