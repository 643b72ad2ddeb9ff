"""Control points: what every stage did, written down by the stage itself, in the transaction of the act.

Enters: counts, quantities and amounts as a stage holds them while it acts. Leaves: rows of `control_points`. Refuses: figures
that are read back from what another stage wrote: then the two would never differ, and comparing them would prove nothing.

Grain: one row per (point, batch, adapter, account, tenant, meter, reason, currency). A batch is what was done at once: a close,
a delivery, a list of a provider; `previous_batch_id` is the one it came from, so that it can be followed back. Emit and accept
have their own: the trailers of segments, which the lake keeps and reconciliation adds up without reading an event. Quantities
are units of the meter, amounts money of `currency`; empty texts stand for what a point does not tell apart.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Final

from sqlalchemy import select

from metering.books import control_points, insertion
from metering.numbers import exact_sum

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from decimal import Decimal

    from sqlalchemy import Connection, Select

# P1 to P8 of the way of a usage event, by the act that writes them.
ATTRIBUTED, RATED, INVOICED, DELIVERED, HELD, COLLECTED = "P3", "P4", "P5", "P6", "P7", "P8"
POINTS: Final = (ATTRIBUTED, RATED, INVOICED, DELIVERED, HELD, COLLECTED)
_AT_ONCE = 5_000


@dataclass(frozen=True, slots=True)
class ControlPoint:
    """What one act did, in one account of it. `event_count` counts what the point counts: lines, documents, windows."""

    point: str
    batch_id: str
    reason: str
    written_at: datetime
    event_count: int = 1
    quantity: Decimal | None = None
    amount: Decimal | None = None
    currency: str = ""
    previous_batch_id: str = ""
    adapter: str = ""
    account_id: str = ""
    tenant_id: str = ""
    meter: str = ""
    period_start: datetime | None = None
    period_end: datetime | None = None


_KEY: Final = ("point", "batch_id", "adapter", "account_id", "tenant_id", "meter", "reason", "currency")


def write_points(connection: Connection, points: Iterable[ControlPoint]) -> int:
    """Write the points of an act into its transaction; return how many rows. What is there already stays: an act is once."""
    rows = [{field.name: getattr(point, field.name) for field in fields(ControlPoint)} for point in added_up(points)]
    for at in range(0, len(rows), _AT_ONCE):
        connection.execute(insertion(connection, control_points).on_conflict_do_nothing(), rows[at : at + _AT_ONCE])
    return len(rows)


def added_up(points: Iterable[ControlPoint]) -> list[ControlPoint]:
    """Return one point per key, sums exact; a figure that none of them has stays None."""
    groups: dict[tuple[object, ...], list[ControlPoint]] = {}
    for point in points:
        groups.setdefault(tuple(getattr(point, name) for name in _KEY), []).append(point)
    return [
        replace(
            members[0],
            event_count=sum(one.event_count for one in members),
            quantity=_sum(one.quantity for one in members),
            amount=_sum(one.amount for one in members),
        )
        for members in groups.values()
    ]


def _sum(figures: Iterable[Decimal | None]) -> Decimal | None:
    told = [figure for figure in figures if figure is not None]
    return exact_sum(told) if told else None


def read_points(
    connection: Connection,
    point: str | None = None,
    batch_id: str | None = None,
    *,
    before: Select[tuple[str]] | None = None,
) -> list[ControlPoint]:
    """Return points, all or of one point or batch, in the order of their keys.

    `before`: those alone whose batch came from one of a query.
    """
    query = select(*(control_points.c[field.name] for field in fields(ControlPoint)))
    if point is not None:
        query = query.where(control_points.c.point == point)
    if batch_id is not None:
        query = query.where(control_points.c.batch_id == batch_id)
    if before is not None:
        query = query.where(control_points.c.previous_batch_id.in_(before))
    return [
        ControlPoint(**row)
        for row in connection.execute(query.order_by(*(control_points.c[name] for name in _KEY))).mappings()
    ]
