"""Credit notes at Stripe: what lowers an invoice that is there.

Enters: the payload of a credit note. Leaves: a credit note of exactly our amount, once. Refuses: to lower what is not at Stripe.

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
        there = find_credit_note(calls, identity)
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
        made = calls.write(f"credit:{after}", calls.client.v1.credit_notes.create, params, in_time=True)
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
    there = None if identity is None else find_credit_note(calls, identity)
    if there is None:
        return Found("absent")
    answer = _judge(body, there)
    is_same = answer.outcome is Outcome.ALREADY_ACCEPTED_SAME
    return Found("same" if is_same else "other", answer.detail, there.id)


def find_credit_note(calls: Calls, identity: str) -> Any:
    """Return the credit note of this delivery on an invoice of Stripe, None if there is none. Lists are exact at once."""
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
