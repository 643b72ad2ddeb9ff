"""What we sent, from the outbox, in the shape in which a provider's list is compared with it.

Enters: the books. Leaves: SENT_DOCUMENTS and SENT_QUANTITIES, and for providers that cannot be asked what they
accepted, PROVIDER_QUANTITIES from their own answers. Refuses: to look at any provider's list; both sides stay independent.

SENT_DOCUMENTS has one row per delivery of an invoice, credit note or void. Amounts are signed: a credit note is below zero, a
void takes back what its invoice brought. `booked` is what the books say, `sent` what went to the provider in its units; the
difference is carried. `document_id` is the delivery of the invoice, for a void too: of one document at the provider all rows
add up.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, and_, or_, select

from billing_adapters.books import deliveries, delivery_attempts
from billing_adapters.deliveries import REFUSED_LATER
from billing_adapters.outbox import END_OF_TIME
from billing_adapters.provider_list import QUANTITIES, provider_table
from rating.books import invoices

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa


DOCUMENT_KINDS = ("invoice", "credit_note", "void")
# Where what was meant for a provider is now; `not_sent` is what the outbox does not know of.
BUCKETS = {
    "delivered": "confirmed",
    "pending": "pending",
    "attempting": "pending",
    "parked": "failed",
    "waived": "waived",
}
_AT_ONCE = 500
_ZERO = Decimal(0)


@cache
def sent_documents_schema() -> pa.Schema:
    """Return SENT_DOCUMENTS, see the head. `bucket` is one of confirmed, pending, failed, waived. Instants UTC."""
    import pyarrow as pa

    text, instant, exact = pa.string(), pa.timestamp("us", tz="UTC"), pa.decimal128(38, 12)
    names = ("adapter", "kind", "delivery_id", "document_id", "invoice_id", "account_id", "currency")
    return pa.schema(
        [
            *(pa.field(name, text, nullable=False) for name in names),
            pa.field("number", text),
            pa.field("booked", exact, nullable=False),
            pa.field("sent", exact, nullable=False),
            pa.field("bucket", text, nullable=False),
            pa.field("outcome", text),
            pa.field("reason", text, nullable=False),
            pa.field("is_uncertain", pa.bool_(), nullable=False),
            pa.field("provider_id", text),
            pa.field("attempts", pa.int64(), nullable=False),
            pa.field("period_start", instant),
            pa.field("period_end", instant),
            pa.field("issued_at", instant),
            pa.field("enqueued_at", instant, nullable=False),
            pa.field("ended_at", instant),
            pa.field("recover_by", instant),
        ]
    )


@cache
def sent_quantities_schema() -> pa.Schema:
    """Return SENT_QUANTITIES: one row per delivery of usage: whose, under which name, from when on, and what became of it.

    `is_refused_later`: the provider accepted it and took that back in a late report. `tenant_id` and `meter` are null where
    nobody said to whom and what the series belongs.
    """
    import pyarrow as pa

    text, instant, exact = pa.string(), pa.timestamp("us", tz="UTC"), pa.decimal128(38, 12)
    names = ("adapter", "kind", "delivery_id", "account_id", "subscription_id", "name")
    return pa.schema(
        [
            *(pa.field(name, text, nullable=False) for name in names),
            pa.field("tenant_id", text),
            pa.field("meter", text),
            pa.field("start", instant, nullable=False),
            pa.field("revision", pa.int64(), nullable=False),
            pa.field("quantity", exact, nullable=False),
            pa.field("bucket", text, nullable=False),
            pa.field("outcome", text),
            pa.field("reason", text, nullable=False),
            pa.field("is_uncertain", pa.bool_(), nullable=False),
            pa.field("is_refused_later", pa.bool_(), nullable=False),
            pa.field("provider_id", text),
            pa.field("attempts", pa.int64(), nullable=False),
            pa.field("enqueued_at", instant, nullable=False),
            pa.field("ended_at", instant),
            pa.field("recover_by", instant),
        ]
    )


def sent_documents(
    connection: Connection, adapter: str, *, issued_from: datetime | None = None, delivery_ids: Sequence[str] = ()
) -> pa.Table:
    """Return SENT_DOCUMENTS of an adapter: of all documents, or of those issued from then on and of the deliveries named."""
    import pyarrow as pa

    columns: list[Any] = [
        deliveries,
        invoices.c.number,
        invoices.c.period_start,
        invoices.c.period_end,
        invoices.c.issued_at,
    ]
    # A delivery whose document is not in the books is one for its own sake.
    joined = deliveries.outerjoin(invoices, invoices.c.invoice_id == deliveries.c.subject)
    query = (
        select(*columns)
        .select_from(joined)
        .where(deliveries.c.adapter == adapter, deliveries.c.kind.in_(DOCUMENT_KINDS))
        .order_by(deliveries.c.enqueued_at, deliveries.c.delivery_id)
    )
    rows: dict[str, Any] = {}
    if issued_from is None:
        rows = {row["delivery_id"]: row for row in connection.execute(query).mappings()}
    else:
        recent = query.where(or_(invoices.c.issued_at >= issued_from, deliveries.c.enqueued_at >= issued_from))
        rows = {row["delivery_id"]: row for row in connection.execute(recent).mappings()}
        missing = sorted(set(delivery_ids) - rows.keys())
        for at in range(0, len(missing), _AT_ONCE):
            named = deliveries.c.delivery_id.in_(missing[at : at + _AT_ONCE])
            # All that was meant of the same document: a void goes with its invoice.
            part = query.where(deliveries.c.subject.in_(select(deliveries.c.subject).where(named)))
            rows |= {row["delivery_id"]: row for row in connection.execute(part).mappings()}
    brought = {row["subject"]: row for row in rows.values() if row["kind"] == "invoice" and row["revision"] == 1}
    listed = [_document(row, brought.get(row["subject"])) for row in rows.values()]
    return pa.Table.from_pylist([one for one in listed if one is not None], schema=sent_documents_schema())


def _document(row: Any, brought: Any) -> dict[str, Any] | None:
    booked, sent, bucket = row["amount"], row["quantity"], BUCKETS[row["state"]]
    if row["kind"] == "void":
        if brought is None:
            # Nothing of it ever went there, so there is nothing to take back.
            return None
        booked, sent = -(brought["amount"] or _ZERO), -(brought["quantity"] or _ZERO)
        # What never arrived is taken back where it waits or failed; what arrived, where its void is.
        if brought["state"] != "delivered" or row["state"] == "delivered":
            bucket = BUCKETS[brought["state"]]
    return {
        **_common(row),
        "document_id": brought["delivery_id"]
        if row["kind"] == "void" and not _is_credited(row, brought)
        else row["delivery_id"],
        "invoice_id": row["subject"],
        "currency": row["currency"] or (brought["currency"] if brought is not None else "") or "",
        "number": row["number"],
        "booked": booked or _ZERO,
        "sent": sent if sent is not None else booked or _ZERO,
        "bucket": bucket,
        **{name: row[name] for name in ("period_start", "period_end", "issued_at")},
    }


def _is_credited(void: Any, brought: Any) -> bool:
    """Was a void done by a credit note of its own, because its invoice was paid? Then the provider has two documents."""
    return void["provider_id"] not in {None, brought["provider_id"]}


def _common(row: Any) -> dict[str, Any]:
    same = ("adapter", "kind", "delivery_id", "account_id", "outcome", "reason", "is_uncertain", "provider_id")
    return {
        **{name: row[name] for name in same},
        **{name: row[name] for name in ("attempts", "enqueued_at", "ended_at")},
        "recover_by": None if row["deadline"] == END_OF_TIME else row["deadline"],
    }


def sent_quantities(
    connection: Connection,
    adapter: str,
    start: datetime,
    end: datetime,
    owners: Mapping[str, tuple[str, str]] | None = None,
) -> pa.Table:
    """Return SENT_QUANTITIES of an adapter for windows that begin in `[start, end)`.

    A series is a subscription's use of one name; the window's start is the last word of the delivery's natural key.
    `owners`: of a series, its tenant and our meter.
    """
    import pyarrow as pa

    query = select(deliveries).where(
        and_(
            deliveries.c.adapter == adapter,
            deliveries.c.kind.not_in(DOCUMENT_KINDS),
            deliveries.c.series.is_not(None),
            deliveries.c.quantity.is_not(None),
        )
    )
    refused = set(
        connection.scalars(
            select(delivery_attempts.c.delivery_id).where(delivery_attempts.c.outcome == REFUSED_LATER).distinct()
        )
    )
    rows = []
    for row in connection.execute(query.order_by(deliveries.c.enqueued_at, deliveries.c.delivery_id)).mappings():
        at = datetime.fromisoformat(row["natural_key"].rpartition(" ")[2])
        subscription_id, _, name = row["series"].partition(" ")
        if start <= at < end:
            tenant_id, meter = (owners or {}).get(row["series"], (None, None))
            rows.append(
                {
                    **_common(row),
                    "tenant_id": tenant_id,
                    "meter": meter,
                    "is_refused_later": row["delivery_id"] in refused,
                    "subscription_id": subscription_id,
                    "name": name,
                    "start": at,
                    "revision": row["revision"],
                    "quantity": row["quantity"],
                    "bucket": BUCKETS[row["state"]],
                }
            )
    return pa.Table.from_pylist(rows, schema=sent_quantities_schema())


def answered_quantities(sent: pa.Table, window_s: int = 3600) -> pa.Table:
    """Return PROVIDER_QUANTITIES from a provider's own answers, record by record, where it cannot be asked again (AWS).

    Evidence of what it accepted, not of what it billed: import its report for that. `window_s`: seconds of a window.
    """
    from datetime import timedelta

    rows = [
        {
            "adapter": row["adapter"],
            "account_id": row["account_id"],
            "name": row["name"],
            "start": row["start"],
            "end": row["start"] + timedelta(seconds=window_s),
            "quantity": row["quantity"],
            "status": "accepted",
            "provider_id": row["provider_id"],
        }
        for row in sent.to_pylist()
        if row["bucket"] == "confirmed"
    ]
    return provider_table(QUANTITIES, rows)
