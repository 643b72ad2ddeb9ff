"""What accounts owe: documents that ask for money, and settlements that take it off, as legs on days.

Enters: the books. Leaves: `Leg`s of everything before a position among the closes, for roll-forwards to open with. Refuses: to
allocate what an account paid to other documents than those that it was reported for.

What a document asks for (with taxes) is worked out once, from the catalog that it pins, and kept beside it. Documents that are
settled or taken back, to nothing, before a day are left out together with what settled them: they open with zero.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from billing_adapters.books import receivables
from billing_adapters.settlements import read_settlements
from metering.books import insertion
from metering.numbers import exact_sum
from rating.books import closes, invoice_voids, invoices

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from datetime import date
    from decimal import Decimal

    from sqlalchemy import Connection

    from billing_adapters.settlements import Settlement


@dataclass(frozen=True, slots=True)
class Asked:
    """What a final document asks for, as issued: in whose name, by when, before any void."""

    invoice_id: str
    entity: str | None
    payable: Decimal
    due_on: date | None


@dataclass(frozen=True, slots=True)
class Leg:
    """An amount on the receivables of an account on a day: above zero raises what is owed. `kind` as in the journal.

    `due_on`: of its document, the day by which it is to be paid; where nobody said, its day of issue.
    """

    account_id: str
    currency: str
    invoice_id: str
    posted_on: date
    kind: str
    amount: Decimal
    due_on: date


@dataclass(frozen=True, slots=True)
class PostedSettlement:
    """A settlement as the journal posts it, with what it needs of its document, and the close that it is imported with."""

    settlement: Settlement
    batch_id: str
    number: str
    entity: str | None
    due_on: date


def not_kept(connection: Connection, limit: int) -> list[str]:
    """Return final and void documents of which nobody kept what they ask for, at most so many, by id."""
    kept = select(receivables.c.invoice_id).where(receivables.c.invoice_id == invoices.c.invoice_id).exists()
    query = select(invoices.c.invoice_id).where(invoices.c.status != "draft", ~kept)
    return list(connection.scalars(query.order_by(invoices.c.invoice_id).limit(limit)))


def keep_asked(connection: Connection, asked: Iterable[Asked]) -> None:
    """Keep what documents ask for."""
    rows = [{name: getattr(one, name) for name in Asked.__slots__} for one in asked]
    if rows:
        # Whoever publishes at the same time keeps the same.
        connection.execute(insertion(connection, receivables).on_conflict_do_nothing(), rows)


def posted(connection: Connection, found: Sequence[Settlement], batch_of: dict[str, str]) -> list[PostedSettlement]:
    """Return settlements with what the journal needs to know; `batch_of`: their closes."""
    columns = (
        invoices.c.invoice_id,
        invoices.c.number,
        invoices.c.issued_at,
        receivables.c.entity,
        receivables.c.due_on,
    )
    joined = invoices.join(receivables, receivables.c.invoice_id == invoices.c.invoice_id)
    wanted = sorted({one.invoice_id for one in found})
    documents: dict[str, Any] = {}
    for at in range(0, len(wanted), 500):
        query = select(*columns).select_from(joined).where(invoices.c.invoice_id.in_(wanted[at : at + 500]))
        documents.update((row.invoice_id, row) for row in connection.execute(query))
    made = []
    for one in found:
        row = documents[one.invoice_id]
        made.append(
            PostedSettlement(
                one, batch_of[one.settlement_id], row.number, row.entity, row.due_on or row.issued_at.date()
            )
        )
    return made


def legs_before(
    connection: Connection, position: int, since: date, *, without: Collection[str], own: Collection[str]
) -> list[Leg]:
    """Return the legs of earlier documents and settlements of closes before a position that are open on `since` or move after it.

    `without`: documents whose own legs the caller has; `own`: settlements that it has. A void after the position is of a later
    run.
    """
    settled: defaultdict[str, list[Settlement]] = defaultdict(list)
    for one in read_settlements(connection, position):
        settled[one.invoice_id].append(one)
    query = (
        select(
            invoices.c.invoice_id,
            invoices.c.account_id,
            invoices.c.currency,
            invoices.c.issued_at,
            invoice_voids.c.voided_at,
            invoice_voids.c.position.label("void_position"),
            receivables.c.payable,
            receivables.c.due_on,
        )
        .join(closes, closes.c.close_id == invoices.c.close_id)
        .join(receivables, receivables.c.invoice_id == invoices.c.invoice_id)
        .outerjoin(invoice_voids, invoice_voids.c.invoice_id == invoices.c.invoice_id)
        .where(closes.c.position <= position, invoices.c.status != "draft")
        .order_by(invoices.c.invoice_id)
    )
    legs: list[Leg] = []
    for row in connection.execute(query):
        mine = [_leg(row, row.payable, "document", row.issued_at.date())]
        if row.void_position is not None and row.void_position < position:
            mine.append(_leg(row, row.payable.copy_negate(), "void", row.voided_at.date()))
        # A refund is below zero among settlements, and raises what is owed.
        taken = [
            (one.settlement_id, _leg(row, one.amount.copy_negate(), one.kind, one.posted_at.date()))
            for one in settled.get(row.invoice_id, ())
        ]
        others = [leg for settlement_id, leg in taken if settlement_id not in own]
        mine = [] if row.invoice_id in without else mine
        is_over = len(others) == len(taken) and all(leg.posted_on < since for leg in (*mine, *others))
        if not is_over or exact_sum([leg.amount for leg in (*mine, *others)]):
            legs += [*mine, *others]
    return legs


def _leg(row: Any, amount: Decimal, kind: str, day: date) -> Leg:
    return Leg(row.account_id, row.currency, row.invoice_id, day, kind, amount, row.due_on or row.issued_at.date())
