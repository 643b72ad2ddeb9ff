"""Deliveries as a person sees them: what waits and until when, what is parked and why, and the two decisions about it.

Enters: the books. Leaves: rows; and after a decision, who decided what and why, in the row and among its attempts.
Refuses: to decide about what is under way or delivered, and decisions without a reason.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import insert, not_, or_, select, update

from billing_adapters.adapter import REFUSALS_KEPT
from billing_adapters.books import deliveries, delivery_attempts
from billing_adapters.errors import DeliveryNotOpen
from billing_adapters.outbox import END_OF_TIME, delivery_point
from billing_adapters.outcomes import MEANINGS, Outcome
from metering.control_points import write_points
from rating.books import invoice_voids

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from decimal import Decimal

    from sqlalchemy import Connection, Engine

# Which states a person may decide about: never what a deliverer is at.
RETRIED = ("parked", "waived", "pending")
WAIVED = ("parked", "pending")
# What stands among the attempts of a delivery that the provider took back.
REFUSED_LATER = "refused later"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One row of the outbox, for reports. `recover_by` None: no deadline. `money`: the class of finding it is, if any."""

    delivery_id: str
    adapter: str
    kind: str
    natural_key: str
    account_id: str
    subject: str
    amount: Decimal | None
    currency: str | None
    quantity: Decimal | None
    state: str
    outcome: str | None
    reason: str
    is_uncertain: bool
    provider_id: str | None
    attempts: int
    enqueued_at: datetime
    next_attempt_at: datetime
    recover_by: datetime | None
    ended_at: datetime | None
    decided_by: str | None
    money: str | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a delivery. `outcome` None: it is under way, or was interrupted."""

    number: int
    deliverer: str
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    detail: str | None
    code: str | None
    request_id: str | None


def list_deliveries(
    connection: Connection,
    *,
    adapter: str | None = None,
    states: Sequence[str] | None = None,
    subject: str | None = None,
    prefix: str | None = None,
    limit: int | None = None,
) -> list[Delivery]:
    """Return deliveries, parked ones first, then by deadline. `subject`: the id of the invoice.

    `prefix`: those whose id begins so.
    """
    query = select(deliveries)
    if adapter is not None:
        query = query.where(deliveries.c.adapter == adapter)
    if states is not None:
        query = query.where(deliveries.c.state.in_(states))
    if subject is not None:
        query = query.where(deliveries.c.subject == subject)
    if prefix is not None:
        query = query.where(deliveries.c.delivery_id.startswith(prefix, autoescape=True))
    query = query.order_by(
        deliveries.c.state != "parked",
        deliveries.c.deadline,
        deliveries.c.next_attempt_at,
        deliveries.c.rank,
        deliveries.c.delivery_id,
    ).limit(limit)
    return [_delivery(row) for row in connection.execute(query).mappings()]


def attempts_of(connection: Connection, delivery_id: str) -> list[Attempt]:
    """Return the attempts of a delivery, oldest first; a person's decisions are among them."""
    query = select(*(delivery_attempts.c[name] for name in Attempt.__slots__)).where(
        delivery_attempts.c.delivery_id == delivery_id
    )
    return [Attempt(*row) for row in connection.execute(query.order_by(delivery_attempts.c.number))]


def retry(engine: Engine, delivery_id: str, *, who: str, why: str, now: datetime) -> Delivery:
    """Put a delivery back into the queue, due now, its attempts counted anew. It is looked for before it is written.

    But for one that was refused later and was not in doubt since: nothing was sent yet under its next name.
    Raises DeliveryNotOpen for what is delivered, under way or of a document that is void, ValueError without name and reason.
    """
    _refuse_void(engine, delivery_id)
    was_refused_later = deliveries.c.progress.contains(f'"{REFUSALS_KEPT}"', autoescape=True)
    is_uncertain = or_(deliveries.c.is_uncertain, not_(was_refused_later))
    values = {"state": "pending", "next_attempt_at": now, "attempts": 0, "is_uncertain": is_uncertain, "ended_at": None}
    return _decide(engine, delivery_id, RETRIED, values, who=who, why=why, verb="retried", now=now)


def _refuse_void(engine: Engine, delivery_id: str) -> None:
    """Raise DeliveryNotOpen for a delivery of a document that was taken back; what voids it there may be retried."""
    query = select(deliveries.c.subject).where(
        deliveries.c.delivery_id == delivery_id,
        deliveries.c.kind != "void",
        select(invoice_voids.c.invoice_id).where(invoice_voids.c.invoice_id == deliveries.c.subject).exists(),
    )
    with engine.connect() as connection:
        subject = connection.scalar(query)
    if subject is not None:
        raise DeliveryNotOpen(
            f"{subject} is void, so it is not sent any more; waive this delivery", delivery_id=delivery_id
        )


def waive(engine: Engine, delivery_id: str, *, who: str, why: str, now: datetime) -> Delivery:
    """Give a delivery up: it is never sent, and the reason stays. Raises as `retry`."""
    values = {"state": "waived", "reason": f"waived by {who}: {why}", "ended_at": now}
    return _decide(engine, delivery_id, WAIVED, values, who=who, why=why, verb="waived", now=now)


def refuse_later(engine: Engine, delivery_ids: Sequence[str], *, who: str, why: str, now: datetime) -> int:
    """Park deliveries that a provider accepted and refused later, asynchronously. Return how many were delivered till now."""
    if not why.strip():
        raise ValueError("a late refusal has a reason")
    refused = 0
    for delivery_id in delivery_ids:
        values = {"state": "parked", "outcome": str(Outcome.REJECTED_PERMANENT), "reason": why, "is_uncertain": False}
        with suppress(DeliveryNotOpen):
            values["progress"] = _refused_once_more(engine, delivery_id)
            _decide(engine, delivery_id, ("delivered",), values, who=who, why=why, verb=REFUSED_LATER, now=now)
            refused += 1
    return refused


def _refused_once_more(engine: Engine, delivery_id: str) -> str:
    """Return the progress of a delivery with one late refusal more, so that its next sending has another name."""
    with engine.connect() as connection:
        query = select(deliveries.c.progress).where(deliveries.c.delivery_id == delivery_id)
        progress = orjson.loads(connection.scalar(query) or "{}")
    progress[REFUSALS_KEPT] = str(int(progress.get(REFUSALS_KEPT, "0")) + 1)
    return orjson.dumps(progress, option=orjson.OPT_SORT_KEYS).decode()


def _decide(
    engine: Engine,
    delivery_id: str,
    states: Sequence[str],
    values: dict[str, Any],
    *,
    who: str,
    why: str,
    verb: str,
    now: datetime,
) -> Delivery:
    if not who.strip() or not why.strip():
        raise ValueError(f"a delivery is {verb} by somebody and for a reason; both must be said")
    chosen = deliveries.c.delivery_id == delivery_id
    with engine.begin() as connection:
        fence = connection.scalar(select(deliveries.c.fence).where(chosen, deliveries.c.state.in_(states)))
        if fence is None:
            raise DeliveryNotOpen(
                f"no delivery {delivery_id} is {' or '.join(states)}; `tallybook deliveries` lists them",
                delivery_id=delivery_id,
            )
        # The fence as for a claim: whoever holds an old one may not write over the decision.
        done = connection.execute(
            update(deliveries)
            .where(chosen, deliveries.c.fence == fence, deliveries.c.state.in_(states))
            .values(**values, fence=fence + 1, decided_by=who, claimed_by=None, claimed_until=None)
        )
        if done.rowcount != 1:
            raise DeliveryNotOpen(f"delivery {delivery_id} was just taken up; look again", delivery_id=delivery_id)
        connection.execute(
            insert(delivery_attempts).values(
                delivery_id=delivery_id,
                number=fence + 1,
                deliverer=who,
                started_at=now,
                ended_at=now,
                outcome=verb,
                detail=why,
            )
        )
        row = connection.execute(select(deliveries).where(chosen)).mappings().one()
        write_points(connection, [delivery_point(row, verb, now)])
        return _delivery(row)


def _delivery(row: Any) -> Delivery:
    fields = {name: row[name] for name in Delivery.__slots__ if name not in {"recover_by", "money"}}
    money = None
    if row["state"] != "waived" and row["outcome"] is not None:
        money = MEANINGS[Outcome(row["outcome"])].money
        if money == "LOST" and row["is_uncertain"]:
            # Nobody knows that it is lost: an earlier attempt may have arrived.
            money = "AT_RISK"
    recover_by = None if row["deadline"] == END_OF_TIME else row["deadline"]
    return Delivery(**fields, recover_by=recover_by, money=money)
