"""The books of invoices: what was booked, and the one place that books.

Enters: invoices of a close. Leaves: rows, in one transaction, with gapless numbers; and what was booked, as tables.
Refuses: to book a close twice, and to change a final invoice.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, and_, delete, insert, select, update

from metering.control_points import write_points
from metering.periods import WallPeriod
from rating.balances import Balance, Burn, Burned, paid_of
from rating.books import balance_burns, charges, closes, invoice_lines, invoice_voids, invoices
from rating.close import DRAFT_SEQUENCE, Close, next_number, read_close, write_close
from rating.errors import InvariantViolated, NotFound
from rating.invoice import LINE_COLUMNS, Charge, Invoice, InvoiceLine, content_hash
from rating.paper import BilledBefore, Books
from rating.points import points_of
from rating.rate import BOOKED_LINE_COLUMNS, LINE_KEY
from rating.voids import read_voids, stands_at

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    import pyarrow as pa
    from sqlalchemy import Select

    from metering.control_points import ControlPoint
    from rating.terms import Terms
    from rating.voids import Voided

# The gapless series of each kind of document.
SERIES = {"invoice": "INV", "supplementary_invoice": "INV", "credit_note": "CN"}
LINE_BOOKING_COLUMNS = (*BOOKED_LINE_COLUMNS, "booking")
CHARGE_BOOKING_COLUMNS = (*LINE_KEY, "cell_key", "tier", "part", "unit_price", "quantity", "exact_amount")
_BATCH = 10_000


def book_invoices(
    connection: Connection,
    close: Close,
    made: Sequence[Invoice],
    terms: Terms,
    attributed: Sequence[ControlPoint] = (),
) -> list[Invoice]:
    """Book the final invoices of a close, numbered without gaps, and mark the close as made. Idempotent.

    The caller's transaction makes it all or nothing. Whoever comes second finds the close made and changes nothing.
    `attributed`: what the close wrote down before there were invoices (rating.attribution).
    """
    there = read_close(connection, close.close_id)
    if there is None:
        raise NotFound(f"close {close.close_id} is not in the books", close_id=close.close_id)
    if there.invoices_made:
        return read_invoices(connection, close_id=close.close_id)
    _delete_drafts(connection, close)
    numbered = _numbered(connection, made)
    _insert(connection, numbered)
    write_points(connection, [*attributed, *points_of(close, numbered, terms)])
    connection.execute(update(closes).where(closes.c.close_id == close.close_id).values(invoices_made=True))
    return numbered


def _numbered(connection: Connection, made: Sequence[Invoice]) -> list[Invoice]:
    numbers: dict[str, Iterator[int]] = {}
    for series in dict.fromkeys(SERIES[invoice.document_type] for invoice in made):
        count = sum(SERIES[invoice.document_type] == series for invoice in made)
        first = next_number(connection, series, count)
        numbers[series] = iter(range(first, first + count))
    return [
        replace(invoice, status="final", number=f"{series}-{next(numbers[series]):08}")
        for invoice, series in ((invoice, SERIES[invoice.document_type]) for invoice in made)
    ]


def keep_drafts(connection: Connection, close: Close, made: Sequence[Invoice]) -> None:
    """Keep the drafts of a close in place of earlier drafts of its period. Drafts book nothing."""
    _delete_drafts(connection, close)
    write_close(connection, replace(close, invoices_made=True))
    _insert(connection, made)


def read_invoices(
    connection: Connection,
    *,
    invoice_id: str | None = None,
    invoice_ids: Sequence[str] | None = None,
    close_id: str | None = None,
    wall: WallPeriod | None = None,
    within: Select[tuple[str]] | None = None,
) -> list[Invoice]:
    """Return invoices with lines and charges: all, one, some, those of a close or a period, or those whose ids a query gives.

    By number, drafts last.
    """
    chosen = select(invoices)
    if invoice_ids is not None:
        chosen = chosen.where(invoices.c.invoice_id.in_(invoice_ids))
    if invoice_id is not None:
        chosen = chosen.where(invoices.c.invoice_id == invoice_id)
    if close_id is not None:
        chosen = chosen.where(invoices.c.close_id == close_id)
    if within is not None:
        chosen = chosen.where(invoices.c.invoice_id.in_(within))
    if wall is not None:
        start, end = Close.bounds(wall)
        chosen = chosen.where(invoices.c.period_start == start, invoices.c.period_end == end)
    heads = connection.execute(chosen).mappings().all()
    ids = chosen.with_only_columns(invoices.c.invoice_id)
    lines, burns = _lines_of(connection, ids), _burns_of(connection, ids)
    found = [
        Invoice(
            **{name: head[name] for name in Invoice.__slots__ if name not in {"lines", "prepaid"}},
            lines=tuple(lines.get(head["invoice_id"], ())),
            prepaid=tuple(burns.get(head["invoice_id"], ())),
        )
        for head in heads
    ]
    return sorted(found, key=lambda invoice: (invoice.number is None, invoice.number or "", invoice.account_id))


def read_posting_since(connection: Connection, position: int, since: datetime) -> list[Invoice]:
    """Return final and void documents of closes before a position that may post on a day from `since` (UTC) on, by number.

    That is: issued or voided since, or with a fee whose service ends since. All others were accrued and invoiced, deferred
    and released before. A day is added, because days of service are those of the plan's time zone.
    """
    voided = select(invoice_voids.c.invoice_id).where(invoice_voids.c.voided_at >= since)
    lasting = select(invoice_lines.c.invoice_id).where(
        invoice_lines.c.price_type == "flat", invoice_lines.c.service_end >= since - timedelta(days=1)
    )
    query = (
        select(invoices.c.invoice_id)
        .join(closes, closes.c.close_id == invoices.c.close_id)
        .where(closes.c.position < position, invoices.c.status.in_(("final", "void")))
        .where((invoices.c.issued_at >= since) | invoices.c.invoice_id.in_(voided) | invoices.c.invoice_id.in_(lasting))
    )
    return read_invoices(connection, within=query)


def invoice_of_line(connection: Connection, line_id: str) -> tuple[Invoice, InvoiceLine]:
    """Return a line and its invoice. Raises NotFound."""
    invoice_id = connection.scalar(select(invoice_lines.c.invoice_id).where(invoice_lines.c.line_id == line_id))
    if invoice_id is None:
        raise NotFound(f"no invoice has a line {line_id}; `tallybook invoices` lists the lines", line_id=line_id)
    invoice = read_invoices(connection, invoice_id=invoice_id)[0]
    return invoice, next(line for line in invoice.lines if line.line_id == line_id)


def booked_before(
    connection: Connection, position: int | None, since: datetime, *, subscriptions: Collection[str] | None = None
) -> tuple[pa.Table, pa.Table]:
    """Return what documents of closes before `position` (None: of all) booked for periods from `since` on, if not void by then.

    Two tables, one row per booking of a line and of a charge, in the columns that `rating.rate` subtracts. With
    `subscriptions` their bookings alone, found by the index of the lines.
    """
    final = stands_at(position) & (invoice_lines.c.period_start >= since)
    if position is not None:
        final &= closes.c.position < position
    joined = invoice_lines.join(invoices, invoices.c.invoice_id == invoice_lines.c.invoice_id).join(
        closes, closes.c.close_id == invoices.c.close_id
    )
    line_columns = [
        invoices.c.account_id if name == "account_id" else invoice_lines.c[name] for name in BOOKED_LINE_COLUMNS
    ]
    lines = select(*line_columns, closes.c.position.label("booking")).select_from(joined).where(final)
    keys = [invoice_lines.c[name] for name in LINE_KEY]
    parts = [charges.c[name] for name in CHARGE_BOOKING_COLUMNS[len(LINE_KEY) :]]
    with_charges = joined.join(charges, charges.c.line_id == invoice_lines.c.line_id)
    parted = select(*keys, *parts).select_from(with_charges).where(final)
    return (
        _table(_rows_of(connection, lines, subscriptions), LINE_BOOKING_COLUMNS),
        _table(_rows_of(connection, parted, subscriptions), CHARGE_BOOKING_COLUMNS),
    )


def _rows_of(connection: Connection, query: Select[Any], subscriptions: Collection[str] | None) -> list[Any]:
    """Return the rows of a query on lines: all, or those of some subscriptions, of no more at once than a database takes."""
    if subscriptions is None:
        return list(connection.execute(query).all())
    asked = sorted(subscriptions)
    return [
        row
        for at in range(0, len(asked), _BATCH)
        for row in connection.execute(query.where(invoice_lines.c.subscription_id.in_(asked[at : at + _BATCH])))
    ]


def booked_nothing() -> tuple[pa.Table, pa.Table]:
    """Return the two tables of `booked_before`, empty; for previews and for the first rating of a history."""
    return _table([], LINE_BOOKING_COLUMNS), _table([], CHARGE_BOOKING_COLUMNS)


def _insert(connection: Connection, made: Sequence[Invoice]) -> None:
    heads = [
        {
            **{name: getattr(invoice, name) for name in Invoice.__slots__ if name not in {"lines", "prepaid"}},
            "series": SERIES[invoice.document_type] if invoice.number else "draft",
            "content_hash": content_hash(invoice),
        }
        for invoice in made
    ]
    lines = [
        {**{name: getattr(line, name) for name in LINE_COLUMNS}, "invoice_id": invoice.invoice_id}
        for invoice in made
        for line in invoice.lines
    ]
    parts = [
        {
            **{name: getattr(charge, name) for name in Charge.__slots__},
            "line_id": line.line_id,
            "position": position,
        }
        for invoice in made
        for line in invoice.lines
        for position, charge in enumerate(line.charges, start=1)
    ]
    burns = [
        {
            **{name: getattr(one, name) for name in Burn.__slots__},
            "invoice_id": invoice.invoice_id,
            "position": position,
        }
        for invoice in made
        for position, one in enumerate(invoice.prepaid, start=1)
    ]
    for table, rows in ((invoices, heads), (invoice_lines, lines), (charges, parts), (balance_burns, burns)):
        for at in range(0, len(rows), _BATCH):
            connection.execute(insert(table), rows[at : at + _BATCH])


def _delete_drafts(connection: Connection, close: Close) -> None:
    drafts = select(invoices.c.invoice_id).where(
        invoices.c.status == "draft",
        invoices.c.period_start == close.period_start,
        invoices.c.period_end == close.period_end,
    )
    lines = select(invoice_lines.c.line_id).where(invoice_lines.c.invoice_id.in_(drafts))
    connection.execute(delete(balance_burns).where(balance_burns.c.invoice_id.in_(drafts)))
    connection.execute(delete(charges).where(charges.c.line_id.in_(lines)))
    connection.execute(delete(invoice_lines).where(invoice_lines.c.invoice_id.in_(drafts)))
    connection.execute(delete(invoices).where(invoices.c.invoice_id.in_(drafts)))
    connection.execute(
        delete(closes).where(
            closes.c.sequence == DRAFT_SEQUENCE,
            closes.c.period_start == close.period_start,
            closes.c.period_end == close.period_end,
        )
    )


def _lines_of(connection: Connection, ids: Any) -> dict[str, list[InvoiceLine]]:
    parts: dict[str, list[Charge]] = {}
    line_ids = select(invoice_lines.c.line_id).where(invoice_lines.c.invoice_id.in_(ids))
    for row in connection.execute(
        select(charges).where(charges.c.line_id.in_(line_ids)).order_by(charges.c.line_id, charges.c.position)
    ).mappings():
        parts.setdefault(row["line_id"], []).append(Charge(**{name: row[name] for name in Charge.__slots__}))
    lines: dict[str, list[InvoiceLine]] = {}
    for row in connection.execute(
        select(invoice_lines).where(invoice_lines.c.invoice_id.in_(ids)).order_by(invoice_lines.c.position)
    ).mappings():
        line = InvoiceLine(**{name: row[name] for name in LINE_COLUMNS}, charges=tuple(parts.get(row["line_id"], ())))
        lines.setdefault(row["invoice_id"], []).append(line)
    return lines


def read_burns(connection: Connection) -> Sequence[Any]:
    """Return every burn of final and void documents, with position and day of its close, and of its void."""
    return connection.execute(
        select(
            balance_burns.c.invoice_id,
            balance_burns.c.balance_id,
            balance_burns.c.amount,
            closes.c.position,
            invoices.c.issued_at,
            invoice_voids.c.position.label("void_position"),
            invoice_voids.c.voided_at,
        )
        .select_from(
            balance_burns.join(invoices, invoices.c.invoice_id == balance_burns.c.invoice_id)
            .join(closes, closes.c.close_id == invoices.c.close_id)
            .outerjoin(invoice_voids, invoice_voids.c.invoice_id == invoices.c.invoice_id)
        )
        .where(invoices.c.status != "draft")
        .order_by(closes.c.position, balance_burns.c.invoice_id, balance_burns.c.position)
    ).all()


def burned_before(
    connection: Connection, position: int | None, *, account: str | None = None
) -> dict[str, list[Burned]]:
    """Return what documents of closes before `position` (None: of all) burned, by account, oldest first; not of void ones.

    With `account` of that one alone.
    """
    key = [invoice_lines.c[name] for name in LINE_KEY]
    query = (
        select(invoices.c.account_id, *key, balance_burns.c.balance_id, balance_burns.c.amount)
        .select_from(
            balance_burns.join(invoice_lines, invoice_lines.c.line_id == balance_burns.c.line_id)
            .join(invoices, invoices.c.invoice_id == balance_burns.c.invoice_id)
            .join(closes, closes.c.close_id == invoices.c.close_id)
        )
        .where(stands_at(position))
        .order_by(closes.c.position, invoices.c.invoice_id, balance_burns.c.position)
    )
    if position is not None:
        query = query.where(closes.c.position < position)
    if account is not None:
        query = query.where(invoices.c.account_id == account)
    found: dict[str, list[Burned]] = {}
    for account_id, *line_key, balance_id, amount in connection.execute(query):
        found.setdefault(account_id, []).append(Burned(tuple(line_key), balance_id, amount))
    return found


def read_around(connection: Connection, close_ids: Sequence[str], balances: Iterable[Balance]) -> Books:
    """Return what other documents say of the invoices of these closes: what they correct, what their burns had cost."""
    voids = read_voids(connection)
    paid, paid_back = _burns_paid(connection, close_ids, balances, voids)
    return Books(_corrected(connection, close_ids), paid, voids, paid_back, _billed_before(connection, close_ids))


def _billed_before(connection: Connection, close_ids: Sequence[str]) -> dict[str, BilledBefore]:
    """Return, by line of a correction, the last document before it that has a line of the same key, a void one too.

    A void one, because what was published once must not change when a document that it names is voided later.
    """
    mine, theirs = invoice_lines.alias("mine"), invoice_lines.alias("theirs")
    own, other = invoices.alias("own"), invoices.alias("other")
    own_close, other_close = closes.alias("own_close"), closes.alias("other_close")
    query = (
        select(mine.c.line_id, other.c.number, other.c.snapshot_id)
        .select_from(
            mine.join(own, own.c.invoice_id == mine.c.invoice_id)
            .join(own_close, own_close.c.close_id == own.c.close_id)
            .join(theirs, and_(*(theirs.c[name] == mine.c[name] for name in LINE_KEY)))
            .join(other, other.c.invoice_id == theirs.c.invoice_id)
            .join(other_close, other_close.c.close_id == other.c.close_id)
        )
        .where(own.c.close_id.in_(close_ids), mine.c.kind == "correction")
        .where(other.c.status.in_(("final", "void")), other_close.c.position < own_close.c.position)
        .order_by(mine.c.line_id, other_close.c.position)
    )
    # Of several the last one stays.
    return {line_id: BilledBefore(number, snapshot_id) for line_id, number, snapshot_id in connection.execute(query)}


def _corrected(connection: Connection, close_ids: Sequence[str]) -> dict[str, list[str]]:
    """Return, by invoice, the final documents that billed before what its corrections are of, by number."""
    mine, theirs = invoice_lines.alias("mine"), invoice_lines.alias("theirs")
    own, other = invoices.alias("own"), invoices.alias("other")
    own_close, other_close = closes.alias("own_close"), closes.alias("other_close")
    same = (
        (theirs.c.subscription_id == mine.c.subscription_id)
        & (theirs.c.period_start == mine.c.period_start)
        & (theirs.c.currency == mine.c.currency)
    )
    query = (
        select(own.c.invoice_id, other.c.number)
        .select_from(
            mine.join(own, own.c.invoice_id == mine.c.invoice_id)
            .join(own_close, own_close.c.close_id == own.c.close_id)
            .join(theirs, same)
            .join(other, other.c.invoice_id == theirs.c.invoice_id)
            .join(other_close, other_close.c.close_id == other.c.close_id)
        )
        .where(own.c.close_id.in_(close_ids), mine.c.kind == "correction")
        .where(other.c.status.in_(("final", "void")), other_close.c.position < own_close.c.position)
        .distinct()
        .order_by(own.c.invoice_id, other.c.number)
    )
    found: dict[str, list[str]] = {}
    for invoice_id, number in connection.execute(query):
        found.setdefault(invoice_id, []).append(number)
    return found


def _burns_paid(
    connection: Connection, close_ids: Sequence[str], balances: Iterable[Balance], voids: Mapping[str, Voided]
) -> tuple[dict[tuple[str, int], Decimal], dict[tuple[str, int], Decimal]]:
    """Return, by (invoice, position), the part of each burn that had been paid for, of balances that were partly a gift.

    And the same of what voids gave back: a void is a burn of the opposite sign, at its own position among the closes.
    """
    gifts = {one.id: one for one in balances if one.paid is not None and one.paid != one.amount}
    query = (
        select(balance_burns, closes.c.position.label("booked_at"))
        .select_from(
            balance_burns.join(invoices, invoices.c.invoice_id == balance_burns.c.invoice_id).join(
                closes, closes.c.close_id == invoices.c.close_id
            )
        )
        .where(invoices.c.status.in_(("final", "void")) | invoices.c.close_id.in_(close_ids))
        .order_by(closes.c.position, invoices.c.invoice_id, balance_burns.c.position)
    )
    rows = [row for row in connection.execute(query).mappings() if row["balance_id"] in gifts] if gifts else []
    moves = [(row["booked_at"], 1, row) for row in rows]
    moves += [(voids[row["invoice_id"]].position, -1, row) for row in rows if row["invoice_id"] in voids]
    burned = dict.fromkeys(gifts, Decimal(0))
    paid: dict[tuple[str, int], Decimal] = {}
    paid_back: dict[tuple[str, int], Decimal] = {}
    # Stable: the burns of one position stay in their order.
    for _, sign, row in sorted(moves, key=lambda move: move[0]):
        balance = gifts[row["balance_id"]]
        before = burned[balance.id]
        burned[balance.id] = before + sign * row["amount"]
        part = sign * (paid_of(balance, burned[balance.id]) - paid_of(balance, before))
        (paid if sign > 0 else paid_back)[row["invoice_id"], row["position"]] = part
    return paid, paid_back


def _burns_of(connection: Connection, ids: Any) -> dict[str, list[Burn]]:
    found: dict[str, list[Burn]] = {}
    query = select(balance_burns).where(balance_burns.c.invoice_id.in_(ids)).order_by(balance_burns.c.position)
    for row in connection.execute(query).mappings():
        found.setdefault(row["invoice_id"], []).append(Burn(**{name: row[name] for name in Burn.__slots__}))
    return found


def _table(rows: Iterable[Any], columns: Sequence[str]) -> pa.Table:
    import pyarrow as pa

    types = {
        "plan_version": pa.int64(),
        "tier": pa.int32(),
        "booking": pa.int64(),
        "quantity": pa.decimal128(38, 9),
        "unit_price": pa.decimal128(24, 12),
        "exact_amount": pa.decimal128(38, 21),
        "amount": pa.decimal128(38, 12),
        **dict.fromkeys(("period_start", "period_end", "service_start", "service_end"), pa.timestamp("us", tz="UTC")),
    }
    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    return pa.table(
        {
            name: pa.array(list(column), types.get(name, pa.string()))
            for name, column in zip(columns, values, strict=True)
        }
    )


def check_document(invoice: Invoice, expected_hash: str) -> None:
    """Raise InvariantViolated unless the stored rows of an invoice still give the document they were booked with."""
    if content_hash(invoice) != expected_hash:
        raise InvariantViolated(
            f"invoice {invoice.number or invoice.invoice_id} was changed after it was booked: its rows give another "
            "content hash; restore the books from a backup",
            invoice_id=invoice.invoice_id,
        )
