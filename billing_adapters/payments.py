"""What providers say of payment, brought back into the books.

Enters: readings of invoices at a provider. Leaves: one row per invoice, the newest reading. Refuses: to let an older reading
take the place of a newer one, in whatever order they come; and to change an invoice of ours, which is what it is, paid or not.

What a reading says beyond what is booked is booked by `settlements`, and stays; the readings themselves are replaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from sqlalchemy import select

from billing_adapters.books import payments, provider_events
from billing_adapters.settlements import Reading
from metering.books import insertion

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from sqlalchemy import Connection


@dataclass(frozen=True, slots=True)
class Payment:
    """An invoice at a provider as it was at `read_at`. `invoice_id` is ours, None for one that is not ours.

    `paid_at`: since when it is paid, by the provider's clock; it goes into what is booked, and is not kept with the reading.
    """

    adapter: str
    provider_id: str
    invoice_id: str | None
    status: str
    currency: str
    total: Decimal
    amount_due: Decimal
    amount_paid: Decimal
    amount_remaining: Decimal
    read_at: datetime
    paid_at: datetime | None = None


# The columns of a reading that are kept.
KEPT = tuple(name for name in Payment.__slots__ if name != "paid_at")


def readings_of(payments_read: Iterable[Payment]) -> list[Reading]:
    """Return what readings of invoices of ours say that may be booked: what was paid, and what is given up."""
    return [
        Reading(
            one.adapter,
            one.provider_id,
            one.invoice_id,
            one.currency,
            {
                "payment": one.amount_paid,
                "write_off": one.amount_remaining if one.status == "uncollectible" else Decimal(0),
            },
            one.read_at,
            one.paid_at,
        )
        for one in payments_read
        if one.invoice_id is not None
    ]


def keep_payment(connection: Connection, payment: Payment) -> None:
    """Keep a reading, unless a newer one is there."""
    values = {name: getattr(payment, name) for name in KEPT}
    new = insertion(connection, payments).values(values)
    changed = {name: value for name, value in values.items() if name not in {"adapter", "provider_id"}}
    connection.execute(
        new.on_conflict_do_update(
            index_elements=[payments.c.adapter, payments.c.provider_id],
            set_=changed,
            where=payments.c.read_at < payment.read_at,
        )
    )


def keep_event(connection: Connection, adapter: str, event_id: str, kind: str, received_at: datetime) -> None:
    """Remember that an event was taken."""
    row = {"adapter": adapter, "event_id": event_id, "kind": kind, "received_at": received_at}
    connection.execute(insertion(connection, provider_events).values(row).on_conflict_do_nothing())


def is_known_event(connection: Connection, adapter: str, event_id: str) -> bool:
    """Was this event taken already?"""
    query = select(provider_events.c.event_id).where(
        provider_events.c.adapter == adapter, provider_events.c.event_id == event_id
    )
    return connection.scalar(query) is not None


def list_payments(connection: Connection, *, invoice_ids: Sequence[str] | None = None) -> list[Payment]:
    """Return what is known of payment: of all invoices, or of some."""
    query = select(*(payments.c[name] for name in KEPT))
    if invoice_ids is not None:
        query = query.where(payments.c.invoice_id.in_(invoice_ids))
    rows = connection.execute(query.order_by(payments.c.adapter, payments.c.invoice_id, payments.c.provider_id))
    return [Payment(*row) for row in rows]
