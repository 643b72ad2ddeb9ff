"""What Stripe is to have of a document of the books: literal bytes, made once.

Enters: a `Document`. Leaves: intents whose payload holds every line with whole minor units. Refuses: amounts that do not come out
to the last unit. Amounts are rounded by us, so Stripe's total is ours; quantity and unit stand in description and metadata.

What prepaid balances paid is a line below zero: Stripe asks for `amount_due`. More than 250 lines are folded: the first ones
stay, the rest becomes one line with their sum. Where Stripe takes only coarser amounts (three decimals, the last one 0), the
lines are cut on their cumulative sum, and what is left over is carried to the next document of the account and currency.

Taxes are ours as well (`taxes`): each line names what is taxed, at which rate, and how much that is, rounded by us.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import orjson

from billing_adapters.adapter import Intent
from billing_adapters.minor_units import to_provider, unit_of
from billing_adapters.stripe_adapter.taxes import Row, cut, folded, taxed_rows
from metering.clock import iso_utc, to_us
from metering.numbers import exact_sum, plain, trimmed
from rating.invoice import content_hash

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from billing_adapters.adapter import Document
    from billing_adapters.minor_units import MinorUnit
    from rating.invoice import Invoice, InvoiceLine

LINES_MAX = 250
DESCRIPTION_CHARACTERS = 500
# Inside the lane of an account invoices come first, then what lowers them, then voids.
_RANKS = {"invoice": 1, "credit_note": 2, "void": 3}


@dataclass(frozen=True, slots=True)
class StripeSettings:
    """How invoices stand at Stripe. `customers`: the Stripe customer of an account that has one already.

    `uses_our_numbers`: the numbers of the books are Stripe's as well, gapless as they are there. `auto_advance`: Stripe
    collects, sends and reminds after it is finalized. `lines_per_call` is how many lines one call adds (Stripe names no
    limit). `units`: how this account counts a currency, where that differs from the published lists.
    """

    collection_method: str = "send_invoice"
    days_until_due: int = 30
    auto_advance: bool = True
    uses_our_numbers: bool = True
    lines_per_call: int = 100
    customers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    units: Mapping[str, MinorUnit] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if self.collection_method not in {"send_invoice", "charge_automatically"}:
            raise ValueError("collection_method is send_invoice or charge_automatically")
        if not 1 <= self.lines_per_call <= LINES_MAX:
            raise ValueError(f"lines_per_call is 1 to {LINES_MAX}")


def intents_of(document: Document, settings: StripeSettings) -> list[Intent]:
    """Return what Stripe is to have of a document: none of a draft."""
    invoice = document.invoice
    if invoice.status == "draft" or invoice.number is None:
        return []
    if invoice.status == "void":
        return [_void(document)]
    if invoice.document_type == "credit_note":
        return _credit_notes(document, settings)
    return [_invoice(document, settings)]


def _invoice(document: Document, settings: StripeSettings) -> Intent:
    invoice = document.invoice
    unit = unit_of(invoice.currency, "stripe", settings.units)
    rows = [*taxed_rows(invoice, document.taxed, _line), *_prepaid(invoice)]
    lines, sent, tax = cut(_fold(rows, invoice), document.carried, unit)
    body = {
        "account_id": invoice.account_id,
        "account_name": document.account_name or invoice.account_id,
        "collection": _collection(settings),
        "currency": invoice.currency.lower(),
        "description": f"{invoice.number}: {invoice.period_start:%Y-%m-%d} to {invoice.period_end:%Y-%m-%d}, end open",
        "invoice_id": invoice.invoice_id,
        "lines": lines,
        "number": invoice.number,
        "total": sent,
    }
    if document.taxed is not None and document.taxed.tax:
        body["tax"] = tax
    return Intent(
        kind="invoice",
        natural_key=invoice.invoice_id,
        payload=_text(body),
        account_id=invoice.account_id,
        subject=invoice.invoice_id,
        content=content_hash(invoice),
        lane=invoice.account_id,
        rank=_rank(invoice, "invoice"),
        amount=document.payable,
        currency=invoice.currency,
        quantity=_in_currency(sent, unit),
        series=f"{invoice.account_id} {invoice.currency}",
    )


def _credit_notes(document: Document, settings: StripeSettings) -> list[Intent]:
    """One intent per invoice that is lowered; what lowers none is parked, because Stripe has no such thing."""
    invoice = document.invoice
    unit = unit_of(invoice.currency, "stripe", settings.units)
    made = []
    for lowered in document.lowers:
        amount, _ = to_provider(lowered.amount, 0, unit)
        body = {
            "amount": amount,
            "currency": invoice.currency.lower(),
            "description": f"Credit note {invoice.number} for {lowered.number}{_with_taxes(document)}",
            "invoice_id": lowered.invoice_id,
            "number": invoice.number,
        }
        made.append(_lowering(invoice, lowered.invoice_id, body, -lowered.amount, -_in_currency(amount, unit)))
    # What prepaid balances got back is no business of Stripe's.
    rest = -document.payable - exact_sum([lowered.amount for lowered in document.lowers])
    if rest > 0:
        refusal = (
            f"{plain(rest)} {invoice.currency} of {invoice.number} lower no invoice at Stripe; pay them out by hand"
        )
        body = {"number": invoice.number, "unplaced": plain(rest)}
        made.append(_lowering(invoice, "", body, -rest, Decimal(0), refusal))
    return made


def _with_taxes(document: Document) -> str:
    """Return, in words, the taxes in what a credit note gives back: its one line at Stripe has the gross."""
    if document.taxed is None or not document.taxed.tax:
        return ""
    return f", tax {plain(-document.taxed.tax)} {document.invoice.currency} of {plain(-document.taxed.gross)} included"


def _lowering(
    invoice: Invoice, lowered: str, body: dict[str, Any], amount: Decimal, sent: Decimal, refusal: str | None = None
) -> Intent:
    return Intent(
        kind="credit_note",
        natural_key=f"{invoice.invoice_id}:{lowered}",
        payload=_text(body),
        account_id=invoice.account_id,
        subject=invoice.invoice_id,
        content=f"{content_hash(invoice)}:{lowered}:{plain(amount)}",
        lane=invoice.account_id,
        rank=_rank(invoice, "credit_note"),
        amount=amount,
        currency=invoice.currency,
        quantity=sent,
        series=f"{invoice.account_id} {invoice.currency}",
        refusal=refusal,
    )


def _void(document: Document) -> Intent:
    invoice, voided = document.invoice, document.voided
    # In the order in which people voided: what lowers an invoice is gone before the invoice is.
    order = None if voided is None else f"{iso_utc(voided.voided_at)} {_RANKS['void']} {voided.position:012}"
    body = {
        "account_id": invoice.account_id,
        "document_type": invoice.document_type,
        "invoice_id": invoice.invoice_id,
        "number": invoice.number,
    }
    return Intent(
        kind="void",
        natural_key=invoice.invoice_id,
        payload=_text(body),
        account_id=invoice.account_id,
        subject=invoice.invoice_id,
        lane=invoice.account_id,
        rank=order or _rank(invoice, "void"),
    )


def _line(line: InvoiceLine) -> dict[str, Any]:
    quantity = trimmed(line.quantity)
    counted = f" ({quantity} {line.unit or 'units'})" if line.meter is not None else ""
    return {
        "description": f"{line.description[: DESCRIPTION_CHARACTERS - len(counted)]}{counted}",
        "end": _seconds(line.service_end) - 1,  # Stripe's end is inclusive, ours is open.
        "metadata": {"quantity": quantity, "tallybook_line": line.line_id, "tenant_id": line.tenant_id},
        "start": _seconds(line.service_start),
    }


def _prepaid(invoice: Invoice) -> list[Row]:
    """Return what each prepaid balance paid as one line below zero."""
    paid: dict[str, list[Decimal]] = {}
    for burn in invoice.prepaid:
        paid.setdefault(burn.balance_id, []).append(burn.amount)
    return [
        Row(-exact_sum(amounts), _made_up(invoice, f"Paid from prepaid balance {balance_id}", f"prepaid:{balance_id}"))
        for balance_id, amounts in sorted(paid.items())
    ]


def _fold(rows: Sequence[Row], invoice: Invoice) -> Sequence[Row]:
    if len(rows) <= LINES_MAX:
        return rows
    kept, rest = rows[: LINES_MAX - 1], rows[LINES_MAX - 1 :]
    return [*kept, folded(rest, _made_up(invoice, f"{len(rest)} further lines, see {invoice.number}", "folded"))]


def _made_up(invoice: Invoice, description: str, name: str) -> dict[str, Any]:
    return {
        "description": description[:DESCRIPTION_CHARACTERS],
        "end": _seconds(invoice.period_end) - 1,
        "metadata": {"tallybook_line": name},
        "start": _seconds(invoice.period_start),
    }


def _collection(settings: StripeSettings) -> dict[str, Any]:
    sends = settings.collection_method == "send_invoice"
    return {
        "auto_advance": settings.auto_advance,
        "method": settings.collection_method,
        "days_until_due": settings.days_until_due if sends else None,
        "uses_our_numbers": settings.uses_our_numbers,
    }


def _in_currency(units: int, unit: MinorUnit) -> Decimal:
    return Decimal(units).scaleb(-unit.digits)


def _rank(invoice: Invoice, kind: str) -> str:
    return f"{iso_utc(invoice.issued_at)} {_RANKS[kind]} {invoice.number}"


def _seconds(instant: datetime) -> int:
    return to_us(instant) // 1_000_000


def _text(body: dict[str, Any]) -> str:
    return orjson.dumps(body, option=orjson.OPT_SORT_KEYS).decode()
