"""The queue that AWS Marketplace's notices come by: taken into the books, and only then deleted.

Enters: an SQS client and the address of a queue. Leaves: notices in the books. Refuses: to delete what could not be read; the
queue's own dead-letter queue gets it after so many tries. Messages come at least once and in any order; neither matters, because
a notice is kept by its id and states are made of all of them. Source: reference/providers.md, section 6.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from billing_adapters.adapter import Answer
from billing_adapters.aws_marketplace_adapter.answers import answered
from billing_adapters.aws_marketplace_adapter.buyers import ADAPTER
from billing_adapters.aws_marketplace_adapter.licence_states import keep_notice
from billing_adapters.aws_marketplace_adapter.notices import read_notice
from billing_adapters.errors import EventRefused, ProviderAway

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlalchemy import Engine

MESSAGES_AT_ONCE = 10
LISTENED_MAX = 10_000


@dataclass(slots=True)
class Listened:
    """What a queue held: new notices, those known already, those not of the Marketplace, and why others were left in it."""

    new: int = 0
    known: int = 0
    foreign: int = 0
    refused: list[str] = field(default_factory=list)


def believe(_body: str) -> None:
    """Take a message for AWS's: the policy of the queue lets nobody else write to it."""


def listen(
    engine: Engine,
    client: Any,
    queue_url: str,
    *,
    now: Callable[[], datetime],
    wait_s: int = 0,
    limit: int = LISTENED_MAX,
    check: Callable[[str], object] = believe,
) -> Listened:
    """Take what is in a queue now, at most `limit` messages. Idempotent. Raises ProviderAway, AdapterMisconfigured.

    `check` raises EventRefused for what is not to be believed (`sns_signatures`); it stays in the queue.
    What is not of the Marketplace is deleted, too: the queue is for its notices alone.
    """
    done = Listened()
    for _ in range(0, limit, MESSAGES_AT_ONCE):
        messages = _called(
            lambda: client.receive_message(
                QueueUrl=queue_url, MaxNumberOfMessages=MESSAGES_AT_ONCE, WaitTimeSeconds=wait_s
            )
        ).get("Messages", [])
        if not messages:
            break
        for message in messages:
            if _take(engine, message["Body"], done, now(), check):
                _called(partial(client.delete_message, QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"]))
    return done


def _take(engine: Engine, body: str, done: Listened, now: datetime, check: Callable[[str], object]) -> bool:
    """Keep what a message says, durably; False: leave it in the queue."""
    try:
        check(body)
        notice = read_notice(body)
    except EventRefused as refused:
        done.refused.append(str(refused))
        return False
    if notice is None:
        done.foreign += 1
        return True
    with engine.begin() as connection:
        is_new = keep_notice(connection, notice, now)
    done.new, done.known = done.new + is_new, done.known + (not is_new)
    return True


def _called(call: Callable[[], Any]) -> Any:
    answer = answered(ADAPTER, lambda: call() or {})
    if isinstance(answer, Answer):
        raise ProviderAway(f"the queue did not answer ({answer.detail}); what it holds stays there")
    return answer
