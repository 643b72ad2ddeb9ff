"""Stripe's own list of invoices and credit notes, for comparing with the books: exact, and by Stripe's ids.

Enters: a client and a span of time. Leaves: one row per document that Stripe holds, whoever made it, newest first, amounts in the
currency with its minor digits. Refuses: `search`, which lags; drafts are left out, because nobody owes them.

`delivery_id` and `invoice_id` are ours, from the metadata that delivery writes; None for what somebody made by hand at Stripe,
which is exactly what reconciliation must see.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from billing_adapters.minor_units import unit_of
from metering.clock import from_us, to_us

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import stripe

    from billing_adapters.minor_units import MinorUnit

PAGE = 100


@dataclass(frozen=True, slots=True)
class StripeDocument:
    """An invoice or credit note at Stripe. `total` is positive for both; `lowers` is the invoice that a credit note lowers."""

    kind: Literal["invoice", "credit_note"]
    provider_id: str
    delivery_id: str | None
    invoice_id: str | None
    number: str | None
    customer: str
    currency: str
    total: Decimal
    status: str
    created_at: datetime
    lowers: str | None = None


def documents_at_stripe(
    client: stripe.StripeClient,
    start: datetime,
    end: datetime,
    *,
    spend: Callable[[], object] = lambda: None,
    units: Mapping[str, MinorUnit] | None = None,
) -> Iterator[StripeDocument]:
    """Yield what Stripe made in `[start, end)` of its clock. `spend` is called before each page, to keep a pace.

    Raises stripe.StripeError; what was yielded before stays right, and the whole may be asked again.
    """
    v1: Any = client.v1
    created = {"gte": _seconds(start), "lt": _seconds(end)}
    for one in _pages(v1.invoices.list, {"created": created}, spend):
        if one.status != "draft":
            yield _document("invoice", one, units)
    for one in _pages(v1.credit_notes.list, {"created": created}, spend):
        yield _document("credit_note", one, units)


def _pages(call: Callable[..., Any], params: dict[str, Any], spend: Callable[[], object]) -> Iterator[Any]:
    after: dict[str, Any] = {}
    while True:
        spend()
        page = call({**params, **after, "limit": PAGE})
        yield from page.data
        if not page.has_more:
            return
        after = {"starting_after": page.data[-1].id}


def _document(
    kind: Literal["invoice", "credit_note"], one: Any, units: Mapping[str, MinorUnit] | None
) -> StripeDocument:
    currency = str(one.currency).upper()
    metadata = one.metadata.to_dict() if one.metadata is not None else {}
    return StripeDocument(
        kind=kind,
        provider_id=one.id,
        delivery_id=metadata.get("tallybook_delivery"),
        invoice_id=metadata.get("tallybook_invoice"),
        number=one.number if kind == "invoice" else metadata.get("tallybook_credit_note"),
        customer=one.customer,
        currency=currency,
        total=Decimal(one.total).scaleb(-unit_of(currency, "stripe", units).digits),
        status=one.status,
        created_at=from_us(one.created * 1_000_000),
        lowers=one.invoice if kind == "credit_note" else None,
    )


def _seconds(instant: datetime) -> int:
    return to_us(instant) // 1_000_000
