"""Credit notes and voids at Stripe: what lowers or takes back an invoice that is there.

Enters: the payload of a credit note or a void. Leaves: a credit note of exactly our amount, or a void invoice, once.
Refuses: to lower what is not at Stripe, and to void what was paid.

A credit note lowers what is still to be paid first; what was paid already goes to the customer's balance at Stripe, which
the next invoice uses. Nothing is refunded by itself: money leaves only when a person sends it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import stripe

from billing_adapters.adapter import Answer, Found
from billing_adapters.outcomes import Outcome
from billing_adapters.stripe_adapter.calls import metadata_of
from billing_adapters.stripe_adapter.invoices import KIND, METADATA

if TYPE_CHECKING:
    from billing_adapters.stripe_adapter.calls import Calls


def send_credit_note(calls: Calls) -> Answer:
    """Lower an invoice by our amount. Raises stripe.StripeError."""
    body = orjson.loads(calls.item.payload)
    identity = calls.linked(KIND, body["invoice_id"])
    if identity is None:
        return _not_there(body["invoice_id"])
    if calls.item.is_resumed:
        there = _find(calls, identity)
        if there is not None:
            return _judge(body, there)
    invoice = calls.read(calls.client.v1.invoices.retrieve, identity)
    after = body["amount"] - min(body["amount"], invoice.amount_remaining)
    line = {
        "description": body["description"],
        "quantity": 1,
        "type": "custom_line_item",
        "unit_amount": body["amount"],
    }
    params: dict[str, Any] = {
        "invoice": identity,
        "lines": [line],
        "memo": body["description"],
        "metadata": {METADATA: calls.item.delivery_id, "tallybook_credit_note": body["number"]},
    }
    if after:
        params["credit_amount"] = after
    # How much was paid may change between two attempts, and a key goes with its parameters.
    try:
        made = calls.write(f"credit:{after}", calls.client.v1.credit_notes.create, params)
    except stripe.InvalidRequestError as refused:
        again = calls.read(calls.client.v1.invoices.retrieve, identity)
        if again.amount_remaining == invoice.amount_remaining:
            raise
        # A payment came in between, and the split that we gave is not right any more.
        return Answer(Outcome.RETRY_SAFE, f"{identity} was paid meanwhile: {refused.user_message}")
    return Answer(Outcome.ACCEPTED, f"lowers {identity}", made.id)


def look_for_credit_note(calls: Calls) -> Found:
    """Return what is at Stripe of a credit note. Raises stripe.StripeError."""
    body = orjson.loads(calls.item.payload)
    identity = calls.linked(KIND, body["invoice_id"])
    there = None if identity is None else _find(calls, identity)
    if there is None:
        return Found("absent")
    answer = _judge(body, there)
    is_same = answer.outcome is Outcome.ALREADY_ACCEPTED_SAME
    return Found("same" if is_same else "other", answer.detail, there.id)


def send_void(calls: Calls) -> Answer:
    """Void an invoice; a draft is deleted. Raises stripe.StripeError."""
    body = orjson.loads(calls.item.payload)
    identity = calls.linked(KIND, body["invoice_id"])
    if identity is None:
        return Answer(Outcome.ACCEPTED, "it never was at Stripe, so there is nothing to void")
    invoice = calls.read(calls.client.v1.invoices.retrieve, identity)
    if invoice.status == "void":
        return Answer(Outcome.ALREADY_ACCEPTED_SAME, "void already", identity)
    if invoice.status == "paid":
        detail = f"{body['number']} is paid at Stripe, and what is paid cannot be voided; lower it by a credit note"
        return Answer(Outcome.REJECTED_PERMANENT, detail, identity, code="paid")
    done = calls.write("void", calls.client.v1.invoices.void_invoice, identity, {})
    return Answer(Outcome.ACCEPTED, f"{done.status} at Stripe", identity)


def look_for_void(calls: Calls) -> Found:
    """Return whether an invoice is void. Raises stripe.StripeError."""
    identity = calls.linked(KIND, orjson.loads(calls.item.payload)["invoice_id"])
    if identity is None:
        return Found("absent")
    invoice = calls.read(calls.client.v1.invoices.retrieve, identity)
    return Found("same", "void", identity) if invoice.status == "void" else Found("absent")


def _find(calls: Calls, identity: str) -> Any:
    for one in calls.pages(calls.client.v1.credit_notes.list, invoice=identity):
        if metadata_of(one).get(METADATA) == calls.item.delivery_id:
            return one
    return None


def _judge(body: dict[str, Any], there: Any) -> Answer:
    if there.total != body["amount"]:
        detail = f"Stripe holds {there.total}, ours is {body['amount']} {body['currency']}"
        return Answer(Outcome.CONFLICT_OTHER_VALUE, detail, there.id)
    return Answer(Outcome.ALREADY_ACCEPTED_SAME, "it is there", there.id)


def _not_there(invoice_id: str) -> Answer:
    return Answer(
        Outcome.REJECTED_PERMANENT,
        f"invoice {invoice_id}, which it lowers, is not at Stripe; deliver that first, then retry this",
        code="invoice_not_delivered",
    )
