"""The outbox: what is to be at a provider, who is at it, and what became of it. Intent first, then the call, then the outcome.

Enters: intents of an adapter, answers of a provider. Leaves: claims, which are items that one deliverer has to itself for the
time of its lease. Refuses: to forget. An intent is a row before anything is sent; an attempt is a row before its first byte
leaves; who claims what an interrupted attempt left is told so.

Two deliverers at once: a claim is a conditional update that raises the row's `fence`, and whatever is written of the item
afterwards names the fence it was claimed with. A lease that ran out is nobody's fault and costs nothing but reading back.
Works in SQLite and PostgreSQL; no lock is held while a provider is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import and_, func, insert, or_, select, update

from billing_adapters.adapter import Item
from billing_adapters.books import deliveries, delivery_attempts
from billing_adapters.outcomes import MEANINGS, Outcome
from metering.books import insertion
from metering.clock import from_us, iso_utc
from metering.control_points import DELIVERED, ControlPoint, write_points
from metering.numbers import exact_sum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Engine

    from billing_adapters.adapter import Answer, Capabilities, Intent
    from billing_adapters.outcomes import Next
    from metering.clock import Clock

END_OF_TIME = datetime(9999, 12, 31, tzinfo=UTC)
OPEN_STATES = ("pending", "attempting")
_ENQUEUED_AT_ONCE = 500
_DETAIL_CHARACTERS = 1000

# What a control point takes of a delivery (`delivery_point`).
_COUNTED = tuple(
    deliveries.c[name] for name in ("delivery_id", "adapter", "account_id", "subject", "series", "quantity", "currency")
)
# Made once, because making them takes longer than asking. Of one lane the first open rank is taken, of that the first revision.
_OTHER = deliveries.alias("earlier")
_BLOCKED = (
    select(_OTHER.c.delivery_id)
    .where(
        _OTHER.c.adapter == deliveries.c.adapter,
        _OTHER.c.lane == deliveries.c.lane,
        _OTHER.c.state.in_(OPEN_STATES),
        _OTHER.c.delivery_id != deliveries.c.delivery_id,
        or_(
            _OTHER.c.rank < deliveries.c.rank,
            and_(_OTHER.c.rank == deliveries.c.rank, _OTHER.c.revision < deliveries.c.revision),
        ),
    )
    .exists()
)
_IN_ORDER = (
    select(deliveries)
    .where(~_BLOCKED)
    .order_by(deliveries.c.deadline, deliveries.c.next_attempt_at, deliveries.c.rank, deliveries.c.delivery_id)
    .with_for_update(of=deliveries, skip_locked=True)
)


@dataclass(frozen=True, slots=True)
class Claim:
    """An item that one deliverer has to itself until `until`. `fence` is its proof, `attempts` counts this one."""

    item: Item
    fence: int
    attempts: int
    is_uncertain: bool
    until: datetime

    @property
    def fence_key(self) -> tuple[str, int]:
        return self.item.delivery_id, self.fence


@dataclass(frozen=True, slots=True)
class Enqueued:
    """What became of intents: new rows, those that were there, and those parked at once because they can never be sent."""

    new: int
    there: int
    parked: int


class Outbox:
    """The deliveries of one adapter in the books. Safe for all threads, processes and hosts; holds no state of its own."""

    def __init__(self, engine: Engine, capabilities: Capabilities, clock: Clock) -> None:
        self.engine = engine
        self.adapter = capabilities.name
        self._overwrites = capabilities.repeat_other == "overwrites"
        self._clock = clock

    @property
    def now(self) -> datetime:
        return from_us(self._clock.now_us())

    # --- intents ------------------------------------------------------------------------------------------------------

    def enqueue(self, intents: Sequence[Intent]) -> Enqueued:
        """Write down what is to be at the provider, if it is not there already. Idempotent by key and content.

        Another content under a natural key: a further revision where the provider overwrites, else parked at once, because
        the provider would keep the first one and say nothing.
        """
        new = parked = 0
        for at in range(0, len(intents), _ENQUEUED_AT_ONCE):
            part = intents[at : at + _ENQUEUED_AT_ONCE]
            with self.engine.begin() as connection:
                rows = self._new_rows(connection, part)
                if rows:
                    # Whoever enqueues the same at the same time may be first.
                    connection.execute(insertion(connection, deliveries).on_conflict_do_nothing(), rows)
                    write_points(connection, (delivery_point(row, "meant", self.now) for row in rows))
                    at_once = [row for row in rows if row["state"] == "parked"]
                    write_points(connection, (delivery_point(row, "parked", self.now) for row in at_once))
            new += sum(row["state"] == "pending" for row in rows)
            parked += sum(row["state"] == "parked" for row in rows)
        return Enqueued(new, len(intents) - new - parked, parked)

    def missing(self, intents: Sequence[Intent]) -> list[Intent]:
        """Return the intents that `enqueue` would write down; for a dry run."""
        with self.engine.connect() as connection:
            ids = {row["delivery_id"] for row in self._new_rows(connection, intents)}
        return [intent for intent in intents if intent.delivery_id(self.adapter) in ids]

    def sent(self, series: Sequence[str]) -> dict[str, Decimal]:
        """Return what was meant for the provider of each series so far, whatever became of it; 0 of one that is not there.

        What was lost on the way is a finding of its own, never sent again under another name by itself.
        """
        found = dict.fromkeys(series, Decimal(0))
        query = select(deliveries.c.series, deliveries.c.quantity).where(
            deliveries.c.adapter == self.adapter, deliveries.c.series.in_(series), deliveries.c.quantity.is_not(None)
        )
        with self.engine.connect() as connection:
            for name, quantity in connection.execute(query):
                found[name] = exact_sum([found[name], quantity])
        return found

    def _new_rows(self, connection: Connection, intents: Sequence[Intent]) -> list[dict[str, Any]]:
        held: dict[tuple[str, str], dict[str, int]] = {}
        columns = (deliveries.c.kind, deliveries.c.natural_key, deliveries.c.delivery_id, deliveries.c.revision)
        for at in range(0, len(intents), _ENQUEUED_AT_ONCE):
            keys = [intent.natural_key for intent in intents[at : at + _ENQUEUED_AT_ONCE]]
            there = select(*columns).where(deliveries.c.adapter == self.adapter, deliveries.c.natural_key.in_(keys))
            for kind, key, delivery_id, revision in connection.execute(there):
                held.setdefault((kind, key), {})[delivery_id] = revision
        rows = []
        for intent in intents:
            delivery_id = intent.delivery_id(self.adapter)
            revisions = held.setdefault((intent.kind, intent.natural_key), {})
            if delivery_id not in revisions:
                rows.append(self._row(intent, delivery_id, len(revisions) + 1))
                revisions[delivery_id] = len(revisions) + 1
        return rows

    def _row(self, intent: Intent, delivery_id: str, revision: int) -> dict[str, Any]:
        now = self.now
        refusal, outcome = intent.refusal, Outcome.REJECTED_PERMANENT
        if revision > 1 and not self._overwrites:
            outcome = Outcome.CONFLICT_OTHER_VALUE
            refusal = f"{MEANINGS[outcome].sentence}: it was sent with other content before"
        return {
            "delivery_id": delivery_id,
            "adapter": self.adapter,
            "kind": intent.kind,
            "natural_key": intent.natural_key,
            "revision": revision,
            "content_hash": intent.content_hash,
            "payload": intent.payload,
            "lane": intent.lane or f"{intent.kind}:{intent.natural_key}",
            "rank": intent.rank,
            "account_id": intent.account_id,
            "subject": intent.subject,
            "amount": intent.amount,
            "currency": intent.currency,
            "quantity": intent.quantity,
            "series": intent.series,
            "state": "pending" if refusal is None else "parked",
            "outcome": None if refusal is None else str(outcome),
            "reason": refusal or "",
            "is_uncertain": False,
            "progress": "{}",
            "attempts": 0,
            "enqueued_at": now,
            "next_attempt_at": now,
            "deadline": intent.recover_by or END_OF_TIME,
            "fence": 0,
            "ended_at": None if refusal is None else now,
        }

    # --- claims -------------------------------------------------------------------------------------------------------

    def claim(self, deliverer: str, limit: int, lease: timedelta) -> list[Claim]:
        """Take up to `limit` items that are due, nearest deadline first; those whose deliverer is gone before all others.

        Each gets an attempt without an outcome, durable when this returns. Of one lane only the first open rank is taken.
        """
        now = self.now
        claims: list[Claim] = []
        with self.engine.begin() as connection:
            for condition in _due_at(now):
                if len(claims) < limit:
                    rows = connection.execute(self._queue(condition, limit - len(claims))).mappings().all()
                    claims += [self._take(connection, row, deliverer, now, now + lease) for row in rows]
        return claims

    def _queue(self, condition: Any, limit: int) -> Any:
        return _IN_ORDER.where(deliveries.c.adapter == self.adapter, condition).limit(limit)

    def _take(self, connection: Connection, row: Any, deliverer: str, now: datetime, until: datetime) -> Claim:
        fence = row["fence"] + 1
        connection.execute(
            update(deliveries)
            .where(deliveries.c.delivery_id == row["delivery_id"], deliveries.c.fence == row["fence"])
            .values(
                state="attempting",
                fence=fence,
                attempts=row["attempts"] + 1,
                is_uncertain=True,
                claimed_by=deliverer,
                claimed_until=until,
            )
        )
        connection.execute(
            insert(delivery_attempts).values(
                delivery_id=row["delivery_id"], number=fence, deliverer=deliverer, started_at=now
            )
        )
        progress = orjson.loads(row["progress"])
        item = Item(
            delivery_id=row["delivery_id"],
            kind=row["kind"],
            natural_key=row["natural_key"],
            payload=row["payload"],
            account_id=row["account_id"],
            subject=row["subject"],
            enqueued_at=row["enqueued_at"],
            is_resumed=bool(row["is_uncertain"] or progress),
            progress=progress,
            recover_by=None if row["deadline"] == END_OF_TIME else row["deadline"],
        )
        return Claim(item, fence, row["attempts"] + 1, bool(row["is_uncertain"]), until)

    def keep(self, claim: Claim, progress: dict[str, str]) -> bool:
        """Keep what an attempt reached. False: somebody else holds the item now, and nothing was written."""
        text = orjson.dumps({**claim.item.progress, **progress}, option=orjson.OPT_SORT_KEYS).decode()
        return self._write(claim, {"progress": text})

    def finish(self, claim: Claim, following: Next, answer: Answer) -> bool:
        """Write down what became of an attempt and of its item, in one transaction.

        False: somebody else holds the item now. The attempt has its outcome all the same; the item is theirs.
        """
        now = self.now
        is_over = following.state != "pending"
        values: dict[str, Any] = {
            "state": following.state,
            "outcome": str(following.outcome),
            "reason": following.reason[:_DETAIL_CHARACTERS],
            "is_uncertain": following.is_uncertain,
            "next_attempt_at": now + timedelta(seconds=following.wait_s),
            "claimed_by": None,
            "claimed_until": None,
            "ended_at": now if is_over else None,
        }
        if answer.provider_id is not None:
            values["provider_id"] = answer.provider_id
        attempt = {
            "ended_at": now,
            "outcome": str(answer.outcome),
            "detail": answer.detail[:_DETAIL_CHARACTERS],
            "code": answer.code,
            "request_id": answer.request_id,
        }
        return self._write(claim, values, attempt, following.state if is_over else None)

    def release(self, claim: Claim, why: str) -> bool:
        """Give back an item that nothing was written of: as it was before the claim, but for the trace of the attempt."""
        values = {
            "state": "pending",
            "is_uncertain": claim.is_uncertain,
            "attempts": claim.attempts - 1,
            "claimed_by": None,
            "claimed_until": None,
        }
        return self._write(claim, values, {"ended_at": self.now, "outcome": "released", "detail": why})

    def _write(
        self, claim: Claim, values: dict[str, Any], attempt: dict[str, Any] | None = None, ended: str | None = None
    ) -> bool:
        ours = and_(
            deliveries.c.delivery_id == claim.item.delivery_id,
            deliveries.c.fence == claim.fence,
            deliveries.c.state == "attempting",
        )
        with self.engine.begin() as connection:
            told = update(deliveries).where(ours).values(**values).returning(*_COUNTED)
            row = connection.execute(told).mappings().one_or_none()
            if row is not None and ended is not None:
                write_points(connection, [delivery_point(row, ended, self.now)])
            if attempt is not None:
                own = and_(
                    delivery_attempts.c.delivery_id == claim.item.delivery_id,
                    delivery_attempts.c.number == claim.fence,
                )
                connection.execute(update(delivery_attempts).where(own).values(**attempt))
        return row is not None

    def due(self) -> int:
        """Return how many items may be claimed now, those included that wait for an earlier one of their lane."""
        own = and_(deliveries.c.adapter == self.adapter, or_(*_due_at(self.now)))
        with self.engine.connect() as connection:
            return connection.execute(select(func.count()).select_from(deliveries).where(own)).scalar_one()

    def next_due_at(self) -> datetime | None:
        """Return when the next item may be claimed, as far as times say (lanes may hold it longer); None: nothing is open."""
        soonest = select(deliveries.c.next_attempt_at, deliveries.c.claimed_until, deliveries.c.state).where(
            deliveries.c.adapter == self.adapter, deliveries.c.state.in_(OPEN_STATES)
        )
        with self.engine.connect() as connection:
            rows = connection.execute(soonest).all()
        return min(
            (row.claimed_until if row.state == "attempting" else row.next_attempt_at for row in rows), default=None
        )


def _due_at(now: datetime) -> tuple[Any, Any]:
    """Return what is due: first what somebody claimed and left, then what nobody is at."""
    abandoned = and_(deliveries.c.state == "attempting", deliveries.c.claimed_until <= now)
    return abandoned, and_(deliveries.c.state == "pending", deliveries.c.next_attempt_at <= now)


def delivery_point(row: Any, reason: str, now: datetime) -> ControlPoint:
    """Return what became of a delivery, once per state: meant, delivered, parked, waived. Credit notes are below zero."""
    series = row["series"] or ""
    is_usage = row["currency"] is None
    return ControlPoint(
        DELIVERED,
        row["delivery_id"],
        reason,
        now,
        quantity=row["quantity"] if is_usage else None,
        amount=None if is_usage else row["quantity"],
        currency=row["currency"] or "",
        previous_batch_id=row["subject"],
        adapter=row["adapter"],
        account_id=row["account_id"],
        meter=series.partition(" ")[2] if is_usage else "",
    )


def describe(claim: Claim) -> str:
    """Return a claim in words, for messages."""
    return f"{claim.item.kind} {claim.item.subject} (attempt {claim.fence}, leased until {iso_utc(claim.until)})"
