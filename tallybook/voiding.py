"""Voiding a document of a workspace: the books first, and what the outbox still holds of it.

Enters: a number, who decides, and why. Leaves: the document void, and deliveries of it that nobody began waived, in one
transaction. Refuses: to void what a credit note lowers at a provider; the credit would be lost with it.

What was sent already is voided at the provider by the next `tallybook deliver`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import and_, select, update

from billing_adapters.books import deliveries
from billing_adapters.errors import DeliveryNotOpen
from billing_adapters.outbox import delivery_point
from metering.control_points import write_points
from rating.books import invoices
from rating.voids import void_invoice
from tallybook.books import lock_for_writing

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from rating.voids import Voided
    from tallybook.workspace import Workspace


def void(workspace: Workspace, number: str, *, who: str, why: str) -> Voided:
    """Void a document by its number or id; see `Workspace.void`."""
    with workspace.books.begin() as connection:
        lock_for_writing(connection)
        voided = void_invoice(connection, number, who=who, why=why, now=workspace.now)
        _refuse_lowered(connection, number, voided.invoice_id)
        _waive_unsent(connection, voided)
    return voided


def _refuse_lowered(connection: Connection, number: str, invoice_id: str) -> None:
    """Raise DeliveryNotOpen if a credit note that stands lowers the invoice at a provider, or is on its way to."""
    lowers = (
        select(deliveries.c.adapter, invoices.c.number)
        .join(invoices, invoices.c.invoice_id == deliveries.c.subject)
        .where(
            deliveries.c.kind == "credit_note",
            deliveries.c.natural_key.endswith(f":{invoice_id}", autoescape=True),
            deliveries.c.state != "waived",
            invoices.c.status == "final",
        )
    )
    if (found := connection.execute(lowers).first()) is not None:
        raise DeliveryNotOpen(
            f"{number} is lowered by credit note {found.number} at {found.adapter}, which would be lost with it; "
            f"void {found.number} first, then {number}",
            invoice_id=invoice_id,
        )


def _waive_unsent(connection: Connection, voided: Voided) -> None:
    """Waive the deliveries of a document of which nothing can be at a provider."""
    unsent = and_(
        deliveries.c.subject == voided.invoice_id,
        deliveries.c.kind != "void",
        deliveries.c.state.in_(("pending", "parked")),
        deliveries.c.is_uncertain.is_(False),
        deliveries.c.progress == "{}",
    )
    values = {
        "state": "waived",
        "reason": f"void before it was sent: {voided.reason}",
        "decided_by": voided.decided_by,
        "ended_at": voided.voided_at,
        "fence": deliveries.c.fence + 1,
    }
    waived = (
        connection.execute(update(deliveries).where(unsent).values(**values).returning(deliveries)).mappings().all()
    )
    write_points(connection, (delivery_point(row, "waived", voided.voided_at) for row in waived))
