"""What a provider accepted at once and refused later, in a report of its own: kept as it was said, and the deliveries parked.

Enters: a report's codes, each with its count and the names of the sendings that it gives as samples. Leaves: one row per report
and code, and parked deliveries with the reason. Refuses: to park twice for one report, and to park for a report on an earlier
sending what was sent again since: each late refusal gives the next sending another name (`Item.sending_id`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson
from sqlalchemy import select

from billing_adapters.adapter import REFUSALS_KEPT
from billing_adapters.books import deliveries, late_refusals
from billing_adapters.deliveries import refuse_later
from billing_adapters.outbox import OPEN_STATES
from metering.books import insertion

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import Connection, Engine

_NAMED_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class LateRefusal:
    """One code of a report: how many it refused, and the names of the sendings that were given of them: samples, never all.

    `named`: as the provider says them. `message`: of the first sample. `subject`: the provider's id of what refused (a meter).
    `start_at` to `end_at`: when the provider looked at them. `kind`: of the report, in the provider's words.
    """

    adapter: str
    event_id: str
    code: str
    kind: str
    error_count: int
    named: tuple[str, ...]
    message: str
    subject: str | None
    start_at: datetime | None
    end_at: datetime | None
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Parked:
    """How many deliveries were parked; and `early`: those that are under way still, so that the report must come again."""

    parked: int
    early: tuple[str, ...]


def keep_refusals(connection: Connection, refusals: Sequence[LateRefusal]) -> None:
    """Keep what a report says, once."""
    for one in refusals:
        values = {name: getattr(one, name) for name in LateRefusal.__slots__}
        values["named"] = orjson.dumps(one.named).decode()
        connection.execute(insertion(connection, late_refusals).values(values).on_conflict_do_nothing())


def list_refusals(connection: Connection) -> list[LateRefusal]:
    """Return what was refused later, newest report first."""
    query = select(*(late_refusals.c[name] for name in LateRefusal.__slots__)).order_by(
        late_refusals.c.received_at.desc(), late_refusals.c.event_id, late_refusals.c.code
    )
    rows = connection.execute(query).mappings()
    return [LateRefusal(**{**row, "named": tuple(orjson.loads(row["named"]))}) for row in rows]


def states_of_named(connection: Connection, refusals: Sequence[LateRefusal]) -> dict[str, str]:
    """Return the states, as they are now, of the deliveries that refusals name, by the names; what is not ours is left out."""
    names = sorted({name for one in refusals for name in one.named})
    found: dict[str, str] = {}
    for at in range(0, len(names), _NAMED_AT_ONCE):
        ids = {name: name.partition(".")[0] for name in names[at : at + _NAMED_AT_ONCE]}
        query = select(deliveries.c.delivery_id, deliveries.c.state).where(deliveries.c.delivery_id.in_(ids.values()))
        states = {row.delivery_id: row.state for row in connection.execute(query)}
        found |= {name: states[delivery_id] for name, delivery_id in ids.items() if delivery_id in states}
    return found


def park_refused(engine: Engine, refusals: Sequence[LateRefusal], *, now: datetime) -> Parked:
    """Park the deliveries that reports name and that are as they were when they were refused. Idempotent."""
    parked, early = 0, []
    for one in refusals:
        why = f"{one.adapter} refused it later: {one.code}" + (f" ({one.message})" if one.message != one.code else "")
        for name in one.named:
            delivery_id, _, refused_before = name.partition(".")
            state = _state_of(engine, delivery_id, refused_before or "0")
            if state in OPEN_STATES:
                early.append(delivery_id)
            elif state == "delivered":
                # 0 where somebody else has just parked it for the same report.
                parked += refuse_later(engine, [delivery_id], who=one.adapter, why=why, now=now)
    return Parked(parked, tuple(early))


def _state_of(engine: Engine, delivery_id: str, refused_before: str) -> str | None:
    """Return the state of a delivery; None: it is not ours, or was sent again since under another name."""
    query = select(deliveries.c.state, deliveries.c.progress).where(deliveries.c.delivery_id == delivery_id)
    with engine.connect() as connection:
        rows = connection.execute(query).all()
    is_current = rows and orjson.loads(rows[0].progress).get(REFUSALS_KEPT, "0") == refused_before
    return rows[0].state if is_current else None
