"""Payments, refunds and write-offs in the books: what lowers a document without another document.

Enters: what providers say became of our invoices, in sum so far (`Reading`: a webhook's, a list's), and payments with ids of
their own (`NamedPayment`: a file of a bank's or a person's). Leaves: settlements, which are never changed. Refuses: to state a
month again that was closed; readings that are older than what is booked; and to book twice.

To book now = what a provider says now - what is booked of it, per (adapter, provider's id, kind). So a reading that comes twice
books nothing, and one that says less than before takes back. A settlement has a position among the closes, as a void has, so
that what a published run knew of payment stays what it was. It is posted on the instant of payment; where a close came after
that instant, on the one at which we learnt of it: what is found late belongs to the month in which it is found.

What providers move to a customer's balance, and their credit notes, are documents of ours or move nothing. Fees are inside what
was paid.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import func, insert, select

from billing_adapters.books import payments, settlements
from billing_adapters.errors import PaymentConflict
from metering.numbers import exact_difference, plain
from rating.books import closes, invoices
from rating.close import DRAFT_SEQUENCE, next_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from decimal import Decimal

    from sqlalchemy import Connection

Kind = Literal["payment", "refund", "write_off"]
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Reading:
    """What a provider says became of an invoice of ours until `read_at`, in sum, in its currency.

    `said` has the kinds that it can tell; what is not there is not known. A refund is below zero.
    """

    adapter: str
    provider_id: str
    invoice_id: str
    currency: str
    said: Mapping[Kind, Decimal]
    read_at: datetime
    paid_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NamedPayment:
    """A payment, refund or write-off by an id that whoever reports it gave it. A refund is below zero."""

    adapter: str
    payment_id: str
    invoice_id: str
    currency: str
    kind: Kind
    amount: Decimal
    paid_at: datetime


@dataclass(frozen=True, slots=True)
class Settlement:
    """One row of the books' `settlements`."""

    settlement_id: str
    position: int
    adapter: str
    provider_id: str
    kind: Kind
    sequence: int
    invoice_id: str
    account_id: str
    currency: str
    amount: Decimal
    paid_at: datetime | None
    posted_at: datetime
    read_at: datetime
    booked_at: datetime


def book_readings(connection: Connection, readings: Iterable[Reading], *, now: datetime) -> list[Settlement]:
    """Book what readings say beyond what is booked, in the caller's transaction. Idempotent.

    Passed over: invoices that are not ours or of another currency (reconciliation finds both), and readings that are older than
    the newest one known.
    """
    asked = list(readings)
    # Most readings say nothing new, and take no place among the closes.
    if not _differences(connection, asked):
        return []
    position = next_number(connection, "close")
    # The number's row is locked now: whoever booked before us is seen, whoever comes after us sees us.
    found = _differences(connection, asked)
    return _book(connection, position, found, now)


def book_named(connection: Connection, named: Sequence[NamedPayment], *, now: datetime) -> list[Settlement]:
    """Book payments that have ids, in the caller's transaction; return those that are new.

    Raises PaymentConflict for an id that is booked with other figures; nothing may be kept then.
    """
    position = next_number(connection, "close") if named else 0
    there = _booked(connection, {(one.adapter, one.payment_id) for one in named})
    new = []
    for one in named:
        before = there.get((one.adapter, one.payment_id), [])
        same = [(row.kind, row.invoice_id, row.amount, row.paid_at) for row in before]
        if same and same != [(one.kind, one.invoice_id, one.amount, one.paid_at)]:
            raise PaymentConflict(
                f"payment {one.payment_id} is booked with {plain(before[0].amount)} {before[0].currency} already; "
                "give what is another payment another id, and take back what was wrong by a payment of its own",
                payment=one.payment_id,
            )
        if not same:
            new.append((one, one.payment_id, one.kind, 1, one.amount, one.paid_at, now))
    return _book(connection, position, new, now)


def read_settlements(connection: Connection, before: int | None = None) -> list[Settlement]:
    """Return what is booked, in the order of positions; all, or those before a position."""
    query = select(*(settlements.c[name] for name in Settlement.__slots__))
    if before is not None:
        query = query.where(settlements.c.position < before)
    return [Settlement(*row) for row in connection.execute(query.order_by(*_ORDER))]


_ORDER = tuple(settlements.c[name] for name in ("position", "settlement_id"))


def _differences(connection: Connection, readings: Sequence[Reading]) -> list[Any]:
    """Return what is to be booked of readings: (reading, provider's id, kind, sequence, amount, paid at, read at)."""
    keys = {(one.adapter, one.provider_id) for one in readings}
    booked, newest = _booked(connection, keys), _newest(connection, keys)
    ours = _currencies(connection, {one.invoice_id for one in readings})
    # A list may have an invoice twice: what its second row says is compared with what its first one books.
    amounts: defaultdict[tuple[str, str, str], list[Decimal]] = defaultdict(list)
    for (adapter, provider_id), rows in booked.items():
        for row in rows:
            amounts[adapter, provider_id, row.kind].append(row.amount)
    made = []
    for one in sorted(readings, key=lambda one: one.read_at):
        rows = booked.get((one.adapter, one.provider_id), [])
        known = [row.read_at for row in rows] + newest.get((one.adapter, one.provider_id), [])
        if ours.get(one.invoice_id) != one.currency or any(at > one.read_at for at in known):
            continue
        for kind, amount in one.said.items():
            before = amounts[one.adapter, one.provider_id, kind]
            change = exact_difference(amount, *before)
            if change:
                before.append(change)
                made.append((one, one.provider_id, kind, len(before), change, one.paid_at, one.read_at))
    return made


def _book(connection: Connection, position: int, found: Sequence[Any], now: datetime) -> list[Settlement]:
    last = connection.scalar(select(func.max(closes.c.as_of)).where(closes.c.sequence != DRAFT_SEQUENCE))
    # A clock that stepped back does not go behind a close.
    learnt = now if last is None else max(now, last)
    accounts = _accounts(connection, {one.invoice_id for one, *_ in found})
    made = [
        Settlement(
            _id_of(one.adapter, provider_id, kind, sequence), position, one.adapter, provider_id, kind, sequence,
            one.invoice_id, accounts[one.invoice_id], one.currency, amount, paid_at,
            paid_at if paid_at is not None and paid_at <= learnt and (last is None or paid_at > last) else learnt,
            read_at, now,
        )
        for one, provider_id, kind, sequence, amount, paid_at, read_at in found
    ]  # fmt: skip
    rows = [{name: getattr(one, name) for name in Settlement.__slots__} for one in made]
    for at in range(0, len(rows), _AT_ONCE):
        connection.execute(insert(settlements), rows[at : at + _AT_ONCE])
    return made


def _id_of(adapter: str, provider_id: str, kind: str, sequence: int) -> str:
    # Lengths keep ("a", "bc") apart from ("ab", "c").
    text = "".join(f"{len(part)}:{part}" for part in (adapter, provider_id, kind, str(sequence)))
    return "stl-" + hashlib.sha256(text.encode()).hexdigest()[:24]


def _booked(connection: Connection, keys: set[tuple[str, str]]) -> dict[tuple[str, str], list[Any]]:
    found: defaultdict[tuple[str, str], list[Any]] = defaultdict(list)
    for part in _parts(sorted({provider_id for _, provider_id in keys})):
        query = select(settlements).where(settlements.c.provider_id.in_(part)).order_by(settlements.c.sequence)
        for row in connection.execute(query):
            found[row.adapter, row.provider_id].append(row)
    return found


def _newest(connection: Connection, keys: set[tuple[str, str]]) -> dict[tuple[str, str], list[datetime]]:
    found: defaultdict[tuple[str, str], list[datetime]] = defaultdict(list)
    for part in _parts(sorted({provider_id for _, provider_id in keys})):
        query = select(payments.c.adapter, payments.c.provider_id, payments.c.read_at)
        for row in connection.execute(query.where(payments.c.provider_id.in_(part))):
            found[row.adapter, row.provider_id].append(row.read_at)
    return found


def _currencies(connection: Connection, invoice_ids: set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in _parts(sorted(invoice_ids)):
        query = select(invoices.c.invoice_id, invoices.c.currency).where(
            invoices.c.status != "draft", invoices.c.invoice_id.in_(part)
        )
        found.update((row.invoice_id, row.currency) for row in connection.execute(query))
    return found


def _accounts(connection: Connection, invoice_ids: set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in _parts(sorted(invoice_ids)):
        query = select(invoices.c.invoice_id, invoices.c.account_id).where(invoices.c.invoice_id.in_(part))
        found.update((row.invoice_id, row.account_id) for row in connection.execute(query))
    return found


def _parts(values: Sequence[str]) -> Iterable[Sequence[str]]:
    return (values[at : at + _AT_ONCE] for at in range(0, len(values), _AT_ONCE))
