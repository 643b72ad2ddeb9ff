"""Voids at Stripe: what takes back an invoice or a credit note that is there.

Enters: the payload of a void. Leaves: the document void at Stripe, or, of an invoice that was paid, a credit note over all of it
that goes to the customer's balance, which the next invoice uses. Refuses: to send money back by itself, and to void a credit
note that somebody paid less by; these wait for a person.

What was never at Stripe needs nothing. It is looked for by our link and, where an attempt may have been interrupted before
the link was kept, by the metadata of the customer's documents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import stripe

from billing_adapters.adapter import Answer, Found
from billing_adapters.outcomes import Outcome
from billing_adapters.stripe_adapter.calls import metadata_of
from billing_adapters.stripe_adapter.customers import find_customer
from billing_adapters.stripe_adapter.invoices import KIND, METADATA
from billing_adapters.stripe_adapter.lowering import find_credit_note

if TYPE_CHECKING:
    from billing_adapters.stripe_adapter.calls import Calls
    from billing_adapters.stripe_adapter.documents import StripeSettings


def send_void(calls: Calls, settings: StripeSettings) -> Answer:
    """Void an invoice, delete its draft, credit it if it was paid; or void a credit note. Raises stripe.StripeError."""
    body = orjson.loads(calls.item.payload)
    if body["document_type"] == "credit_note":
        return _void_credit_notes(calls, body, settings)
    invoice = _invoice(calls, body, settings)
    if invoice is None:
        return Answer(Outcome.ACCEPTED, "it never was at Stripe, so there is nothing to void")
    if invoice.status == "void":
        return Answer(Outcome.ALREADY_ACCEPTED_SAME, "void already", invoice.id)
    if invoice.status == "draft":
        calls.read(calls.client.v1.invoices.delete, invoice.id)
        return Answer(Outcome.ACCEPTED, "it was a draft, and is deleted", invoice.id)
    if invoice.status == "paid":
        return _credit_all(calls, body, invoice)
    try:
        done = calls.write("void", calls.client.v1.invoices.void_invoice, invoice.id, {})
    except stripe.InvalidRequestError as refused:
        again = calls.read(calls.client.v1.invoices.retrieve, invoice.id)
        if again.status == invoice.status:
            raise
        return Answer(Outcome.RETRY_SAFE, f"{invoice.id} became {again.status} meanwhile: {refused.user_message}")
    return Answer(Outcome.ACCEPTED, f"{done.status} at Stripe", invoice.id)


def look_for_void(calls: Calls, settings: StripeSettings) -> Found:
    """Return whether a document is void or credited as a whole; writes nothing at Stripe. Raises stripe.StripeError."""
    body = orjson.loads(calls.item.payload)
    if body["document_type"] == "credit_note":
        notes = _credit_notes(calls, body, settings)
        is_void = bool(notes) and all(one.status == "void" for one in notes)
        return Found("same", "void", notes[0].id) if is_void else Found("absent")
    invoice = _invoice(calls, body, settings)
    if invoice is None:
        return Found("absent")
    if invoice.status == "void":
        return Found("same", "void", invoice.id)
    credit = find_credit_note(calls, invoice.id) if invoice.status == "paid" else None
    return Found("absent") if credit is None else Found("same", f"credited by {credit.id}", credit.id)


def _credit_all(calls: Calls, body: dict[str, Any], invoice: Any) -> Answer:
    """Credit all that a paid invoice was for, to the customer's balance: what is paid cannot be voided."""
    there = find_credit_note(calls, invoice.id) if calls.item.is_resumed else None
    if there is not None:
        return Answer(Outcome.ALREADY_ACCEPTED_SAME, f"credited by {there.id}", there.id)
    credited = invoice.pre_payment_credit_notes_amount + invoice.post_payment_credit_notes_amount
    amount = invoice.total - credited
    if amount == 0:
        return Answer(Outcome.ACCEPTED, "nothing was asked for, so there is nothing to credit", invoice.id)
    if amount < 0:
        detail = f"{body['number']} gave credit at Stripe, which no credit note takes back; correct the balance there"
        return Answer(Outcome.REJECTED_PERMANENT, detail, invoice.id, code="negative")
    words = f"Void of {body['number']}, which was paid"
    params: dict[str, Any] = {
        "credit_amount": amount,
        "invoice": invoice.id,
        "lines": [{"description": words, "quantity": 1, "type": "custom_line_item", "unit_amount": amount}],
        "memo": words,
        "metadata": {METADATA: calls.item.delivery_id, "tallybook_void": body["number"]},
    }
    made = calls.write(f"credit:{amount}", calls.client.v1.credit_notes.create, params, in_time=True)
    return Answer(Outcome.ACCEPTED, f"it was paid, and {made.id} credits all of it to the customer's balance", made.id)


def _void_credit_notes(calls: Calls, body: dict[str, Any], settings: StripeSettings) -> Answer:
    """Void what a credit note of ours is at Stripe: one credit note per invoice that it lowers."""
    notes = _credit_notes(calls, body, settings)
    if not notes:
        return Answer(Outcome.ACCEPTED, "it never was at Stripe, so there is nothing to void")
    for one in notes:
        if one.status == "void":
            continue
        if one.post_payment_amount:
            detail = (
                f"{one.id} gave the customer credit for what was paid, and cannot be voided; correct the balance there"
            )
            return Answer(Outcome.REJECTED_PERMANENT, detail, one.id, code="paid")
        calls.write(f"void:{one.id}", calls.client.v1.credit_notes.void_credit_note, one.id, {})
    return Answer(Outcome.ACCEPTED, "void at Stripe", notes[0].id)


def _credit_notes(calls: Calls, body: dict[str, Any], settings: StripeSettings) -> list[Any]:
    customer = find_customer(calls, body["account_id"], settings)
    listed = [] if customer is None else calls.pages(calls.client.v1.credit_notes.list, customer=customer)
    return [one for one in listed if metadata_of(one).get("tallybook_credit_note") == body["number"]]


def _invoice(calls: Calls, body: dict[str, Any], settings: StripeSettings) -> Any:
    """Return the invoice that is at Stripe of ours, a final one before a draft; None if there is none."""
    identity = calls.linked(KIND, body["invoice_id"])
    if identity is not None:
        return calls.read(calls.client.v1.invoices.retrieve, identity)
    customer = find_customer(calls, body["account_id"], settings)
    listed = [] if customer is None else calls.pages(calls.client.v1.invoices.list, customer=customer)
    found = [one for one in listed if metadata_of(one).get("tallybook_invoice") == body["invoice_id"]]
    return min(found, key=lambda one: (one.status == "draft", one.created, one.id), default=None)
