"""Voids: a final document that is taken back, whole, by somebody and for a reason. Draft, final, void; there is no way back.

Enters: the number of a final document. Leaves: its status, and one row that says who, why, when, and at which position
among the closes. Refuses: drafts, which book nothing; decisions without a reason; and to say what is billed instead.

A void takes back a paper, never what the usage is worth. What the paper had booked is not booked any more, so that the next
close bills it again: worth minus booked. Who is not to pay it changes what it is worth: the subscription ends earlier, the
events are voided, the price is another one. The number stays, because a series has no gaps, and its lines stay as they
were: the content hash is still theirs.

A void has a position of its own in the series of closes. Closes before it booked while the document stood, closes after it
find it gone; so every invoice is still a pure function of its close and of what came before (`stands_at`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, insert, or_, select, update

from metering.clock import iso_utc
from metering.control_points import INVOICED, ControlPoint, write_points
from rating.books import invoice_lines, invoice_voids, invoices
from rating.close import next_number
from rating.errors import AlreadyFinal, NotFound

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Voided:
    """One row of the books' `invoice_voids`: the document, its place among the closes, and who took it back when and why."""

    invoice_id: str
    position: int
    voided_at: datetime
    decided_by: str
    reason: str


def void_invoice(connection: Connection, named: str, *, who: str, why: str, now: datetime) -> Voided:
    """Void a final document, named by its number or id, and return what the books say of it. Idempotent: the first one stays.

    The caller's transaction makes it all or nothing. `now` is in UTC; a clock behind the issue counts as the issue. Raises
    NotFound, AlreadyFinal for a draft, ValueError without a name and a reason.
    """
    if not who.strip() or not why.strip():
        raise ValueError("a document is voided by somebody and for a reason; both must be said")
    # Locked, so that of two who void the same document the second one finds the first one's row.
    found = connection.execute(
        select(invoices).where(or_(invoices.c.number == named, invoices.c.invoice_id == named)).with_for_update()
    ).one_or_none()
    if found is None:
        raise NotFound(f"there is no document {named}; `tallybook invoices` lists them", invoice=named)
    if found.status == "draft":
        raise AlreadyFinal(f"{named} is a draft: it books nothing, and the next one takes its place", invoice=named)
    there = read_voids(connection, [found.invoice_id])
    if there:
        return there[found.invoice_id]
    made = Voided(found.invoice_id, next_number(connection, "close"), max(now, found.issued_at), who, why)
    connection.execute(insert(invoice_voids).values({name: getattr(made, name) for name in Voided.__slots__}))
    connection.execute(update(invoices).where(invoices.c.invoice_id == found.invoice_id).values(status="void"))
    write_points(connection, [_point(found, made)])
    return made


def _point(found: Any, made: Voided) -> ControlPoint:
    """Return what a void takes back of what its close invoiced."""
    return ControlPoint(
        INVOICED,
        made.invoice_id,
        "void",
        made.voided_at,
        amount=-found.amount_due,
        currency=found.currency,
        previous_batch_id=found.close_id,
        account_id=found.account_id,
        period_start=found.period_start,
        period_end=found.period_end,
    )


def read_voids(connection: Connection, invoice_ids: Sequence[str] | None = None) -> dict[str, Voided]:
    """Return the voids, all or those of some documents, by invoice id in the order of their positions."""
    query = select(*(invoice_voids.c[name] for name in Voided.__slots__)).order_by(invoice_voids.c.position)
    if invoice_ids is not None:
        query = query.where(invoice_voids.c.invoice_id.in_(invoice_ids))
    return {row.invoice_id: Voided(*row) for row in connection.execute(query)}


def stands_at(position: int | None) -> ColumnElement[bool]:
    """Return the condition that a document of `invoices` was booked and not yet void at a position (None: now)."""
    gone = select(invoice_voids.c.invoice_id).where(invoice_voids.c.invoice_id == invoices.c.invoice_id)
    if position is not None:
        gone = gone.where(invoice_voids.c.position < position)
    return invoices.c.status.in_(("final", "void")) & ~gone.exists()


def voided_periods(connection: Connection, position: int) -> set[tuple[str, datetime]]:
    """Return the (subscription, start of the billing period) that documents void before a position had billed."""
    query = (
        select(invoice_lines.c.subscription_id, invoice_lines.c.period_start)
        .join(invoice_voids, invoice_voids.c.invoice_id == invoice_lines.c.invoice_id)
        .where(invoice_voids.c.position < position)
        .distinct()
    )
    return {(row.subscription_id, row.period_start) for row in connection.execute(query)}


def described(voided: Voided) -> str:
    """Return a void in words, for paper and for messages."""
    return f"void since {iso_utc(voided.voided_at)}: {voided.reason}"
