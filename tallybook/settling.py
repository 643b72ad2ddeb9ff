"""Payments of a workspace: files of them booked, and what is booked.

Enters: a workspace, a file of payments. Leaves: settlements in the books. Refuses: half a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from billing_adapters.payment_file import read_payments
from billing_adapters.settlements import book_named, read_settlements
from rating.books import invoices
from tallybook.books import reading

if TYPE_CHECKING:
    from pathlib import Path

    from billing_adapters.settlements import Settlement
    from tallybook.workspace import Workspace


def import_payments(workspace: Workspace, path: Path) -> list[Settlement]:
    """Book a file of payments, whole or not at all, and return what is new. Idempotent: an id is booked once.

    Raises ProviderListRefused with row and column, PaymentConflict for an id that is booked with other figures.
    """
    with reading(workspace.books) as connection:
        asked = select(invoices.c.number, invoices.c.invoice_id, invoices.c.currency).where(
            invoices.c.status != "draft"
        )
        documents = {row.number: (row.invoice_id, row.currency) for row in connection.execute(asked)}
    named = read_payments(path, documents)
    with workspace.books.begin() as connection:
        return book_named(connection, named, now=workspace.now)


def booked_payments(workspace: Workspace) -> list[tuple[str, Settlement]]:
    """Return what is booked with the number of its document, in the order in which it was booked."""
    with reading(workspace.books) as connection:
        found = read_settlements(connection)
        numbers = {
            row.invoice_id: row.number for row in connection.execute(select(invoices.c.invoice_id, invoices.c.number))
        }
    return [(numbers[one.invoice_id], one) for one in found]
