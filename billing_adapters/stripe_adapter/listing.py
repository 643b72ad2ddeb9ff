"""Stripe's own list of invoices and credit notes, with lines and payment: exact, and by Stripe's ids.

Enters: a client and a span of Stripe's clock. Leaves: a `ProviderList`, whoever made the documents, amounts in the currency with
its minor digits. Refuses: `search`, which lags; drafts are left out, because nobody owes them; and half a list.

What a payment row says: `paid` is what was paid in, `open` what is still owed, `credited` what credit notes took off before it
was paid, `written_off` what is uncollectible, `to_balance` what went to the customer's balance at Stripe or came from it (a total
below the minimum charge, say). A credit note's row takes its part back: below zero, and `refunded` of what had been paid. Refunds
without a credit note, disputes and fees are not in these lists: import them (docs/reconciliation.md).
"""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import stripe

from billing_adapters.errors import ProviderAway
from billing_adapters.minor_units import unit_of
from billing_adapters.provider_list import DOCUMENTS, LINES, PARTS, PAYMENTS, ProviderList, provider_table
from billing_adapters.stripe_adapter.answers import answer_of
from billing_adapters.stripe_adapter.calls import PAGE, metadata_of
from metering.clock import from_us, to_us

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import datetime

    from billing_adapters.minor_units import MinorUnit

ADAPTER = "stripe"
_ZERO = Decimal(0)
_Row = dict[str, Any]


def held_at_stripe(
    client: stripe.StripeClient,
    start: datetime,
    end: datetime,
    *,
    read_at: datetime,
    spend: Callable[[], object] = lambda: None,
    units: Mapping[str, MinorUnit] | None = None,
) -> ProviderList:
    """Return what Stripe made in `[start, end)` of its clock. `spend` is called before each page, to keep a pace.

    Raises AdapterMisconfigured for keys and rights, ProviderAway for everything else (a retry may help).
    """
    v1: Any = client.v1
    since_s, before_s = _seconds(start), _seconds(end)
    documents, lines, payments = [], [], []
    try:
        credited: defaultdict[str, int] = defaultdict(int)
        # Without an end: what is open of an invoice is so now, also by credit notes that were made after the span.
        for note in pages(v1.credit_notes.list, {"created": {"gte": since_s}}, spend):
            if note.created < before_s:
                documents.append(_document("credit_note", note, units))
                payments.append(_payment_of_note(note, units))
            if note.status != "void":
                credited[note.invoice] += note.pre_payment_amount
        for one in pages(v1.invoices.list, {"created": {"gte": since_s, "lt": before_s}}, spend):
            if one.status != "draft":
                own = [_line(one, line, units) for line in _lines(v1, one, spend)]
                documents.append({**_document("invoice", one, units), "lines": len(own)})
                payments.append(_payment(one, credited[one.id], units))
                lines += own
    except stripe.StripeError as error:
        # 401 and 403 raise; of everything else nothing is kept.
        said = answer_of(error).detail
        raise ProviderAway(
            f"Stripe's list could not be read to its end: {said}; read it again", adapter=ADAPTER
        ) from error
    tables = {
        DOCUMENTS: provider_table(DOCUMENTS, documents),
        LINES: provider_table(LINES, lines),
        PAYMENTS: provider_table(PAYMENTS, payments),
    }
    return ProviderList(ADAPTER, start, end, read_at, tables)


def pages(call: Callable[..., Any], params: dict[str, Any], spend: Callable[[], object]) -> Iterator[Any]:
    """Yield the rows of a list of Stripe's, page by page."""
    after: dict[str, Any] = {}
    while True:
        spend()
        page = call({**params, **after, "limit": PAGE})
        yield from page.data
        if not page.has_more:
            return
        after = {"starting_after": page.data[-1].id}


def _lines(v1: Any, invoice: Any, spend: Callable[[], object]) -> Iterator[Any]:
    """Yield all lines: an invoice shows the first ten, the rest is asked for."""
    if not invoice.lines.has_more:
        yield from invoice.lines.data
        return
    yield from pages(lambda params: v1.invoices.line_items.list(invoice.id, params), {}, spend)


def _document(kind: str, one: Any, units: Mapping[str, MinorUnit] | None) -> _Row:
    metadata = metadata_of(one)
    is_note = kind == "credit_note"
    # What the total holds beyond the lines' own amounts; null where this version of the API says neither.
    without_tax = getattr(one, "total_excluding_tax", None)
    return {
        "adapter": ADAPTER,
        "kind": kind,
        "provider_id": one.id,
        "delivery_id": metadata.get("tallybook_delivery"),
        "invoice_id": metadata.get("tallybook_invoice"),
        "number": metadata.get("tallybook_credit_note") if is_note else one.number,
        "lowers": one.invoice if is_note else None,
        "account_ref": one.customer,
        "currency": _currency(one),
        "net": None if without_tax is None else _amount(one, without_tax, units),
        "tax": None if without_tax is None else _amount(one, one.total - without_tax, units),
        "total": _amount(one, one.total, units),
        "lines": 0,
        "status": one.status,
        "reason": getattr(one, "reason", None) or (one.memo if is_note else None),
        "created_at": from_us(one.created * 1_000_000),
    }


def _line(invoice: Any, line: Any, units: Mapping[str, MinorUnit] | None) -> _Row:
    return {
        "adapter": ADAPTER,
        "provider_id": invoice.id,
        "provider_line_id": line.id,
        "line_id": metadata_of(line).get("tallybook_line"),
        "currency": _currency(invoice),
        "amount": _amount(invoice, line.amount, units),
        "description": line.description,
    }


def _payment(one: Any, credited: int, units: Mapping[str, MinorUnit] | None) -> _Row:
    is_void = one.status == "void"
    parts = {
        "credited": credited,
        "paid": one.amount_paid,
        "to_balance": (one.ending_balance or 0) - one.starting_balance,
    }
    parts["written_off" if one.status == "uncollectible" else "open"] = one.amount_remaining
    due = getattr(one, "due_date", None)
    return {
        **_payment_row("invoice", one, metadata_of(one).get("tallybook_invoice")),
        "total": _amount(one, 0 if is_void else one.total, units),
        **{name: _amount(one, 0 if is_void else parts.get(name, 0), units) for name in PARTS},
        "due_at": None if due is None else from_us(due * 1_000_000),
    }


def _payment_of_note(note: Any, units: Mapping[str, MinorUnit] | None) -> _Row:
    factor = 0 if note.status == "void" else -1
    parts = {"credited": note.pre_payment_amount, "refunded": note.post_payment_amount}
    return {
        **_payment_row("credit_note", note, None),
        "total": _amount(note, factor * note.total, units),
        **{name: _amount(note, factor * parts.get(name, 0), units) for name in PARTS},
    }


def _payment_row(kind: str, one: Any, invoice_id: str | None) -> _Row:
    return {
        "adapter": ADAPTER,
        "kind": kind,
        "provider_id": one.id,
        "invoice_id": invoice_id,
        "status": one.status,
        "currency": _currency(one),
        "fee": _ZERO,
    }


def _currency(one: Any) -> str:
    return str(one.currency).upper()


def _amount(one: Any, minor: int, units: Mapping[str, MinorUnit] | None) -> Decimal:
    return Decimal(minor).scaleb(-unit_of(_currency(one), ADAPTER, units).digits)


def _seconds(instant: datetime) -> int:
    return to_us(instant) // 1_000_000
