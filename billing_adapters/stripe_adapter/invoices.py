"""An invoice at Stripe: find or create a draft, add what is missing, look at the total, finalize. Any step may be the last one.

Enters: the payload of an invoice. Leaves: an open or paid invoice at Stripe with exactly our total, once. Refuses: to finalize
what is not to the cent ours, or what is there already.

    draft      created with our delivery id in its metadata, which finds it again when keys have expired
    lines      in fixed parts, each one call: a part is there whole or not at all
    look       number of lines and total are ours; of several drafts the oldest stays and the others are deleted
    finalize   the one step that counts; afterwards amounts are frozen
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import stripe

from billing_adapters.adapter import Answer, Found
from billing_adapters.outcomes import Outcome
from billing_adapters.stripe_adapter.answers import is_missing
from billing_adapters.stripe_adapter.calls import metadata_of
from billing_adapters.stripe_adapter.customers import customer_of, find_customer

if TYPE_CHECKING:
    from billing_adapters.stripe_adapter.calls import Calls
    from billing_adapters.stripe_adapter.documents import StripeSettings

KIND = "invoice"
METADATA = "tallybook_delivery"
BEGUN_AGAIN_MAX = 5
TAX_NAME_CHARACTERS = 50


def send_invoice(calls: Calls, settings: StripeSettings) -> Answer:
    """Bring an invoice to Stripe, from wherever an earlier attempt left it. Raises stripe.StripeError."""
    body = orjson.loads(calls.item.payload)
    customer = customer_of(calls, body["account_id"], body["account_name"], settings)
    draft = None
    if calls.item.is_resumed:
        there = _find(calls, customer)
        if there is not None and there.status != "draft":
            return _settled(calls, body, there)
        draft = there
    is_new = draft is None
    if draft is None:
        draft = calls.write("create", calls.client.v1.invoices.create, _created(body, customer, calls))
        calls.keep(invoice=draft.id)
    draft = _fill(calls, body, draft, settings, is_new=is_new)
    count = _count_of(calls, draft)
    if (draft.total, _tax_of(draft)) != (body["total"], body.get("tax", 0)) or count != len(body["lines"]):
        return _begin_again(calls, body, draft, count)
    advance = {"auto_advance": body["collection"]["auto_advance"]}
    try:
        done = calls.write(f"finalize:{draft.id}", calls.client.v1.invoices.finalize_invoice, draft.id, advance)
    except stripe.InvalidRequestError:
        # Somebody was faster, or a person finalized it at Stripe: what is there now decides.
        there = _retrieve(calls, draft.id)
        if there is None or there.status == "draft":
            raise
        return _settled(calls, body, there)
    return _settled(calls, body, done, Outcome.ACCEPTED)


def look_for_invoice(calls: Calls, settings: StripeSettings) -> Found:
    """Return what is at Stripe of an invoice; writes nothing there. Raises stripe.StripeError."""
    body = orjson.loads(calls.item.payload)
    customer = find_customer(calls, body["account_id"], settings)
    there = None if customer is None else _find(calls, customer, is_only_looking=True)
    if there is None:
        return Found("partial") if calls.item.progress else Found("absent")
    if there.status == "draft":
        return Found("partial", f"draft {there.id}")
    answer = _settled(calls, body, there)
    state = "same" if answer.outcome is Outcome.ALREADY_ACCEPTED_SAME else "other"
    return Found(state, answer.detail, there.id)  # type: ignore[arg-type]  # one of two literals


def _created(body: dict[str, Any], customer: str, calls: Calls) -> dict[str, Any]:
    collection = body["collection"]
    params: dict[str, Any] = {
        "automatic_tax": {"enabled": False},  # Taxes are in our lines.
        "auto_advance": False,  # Until the total is ours, nobody but us moves it on.
        "collection_method": collection["method"],
        "currency": body["currency"],
        "customer": customer,
        "description": body["description"],
        "discounts": "",  # What the customer gets off is in our amounts; Stripe's own discounts are not inherited.
        "metadata": {METADATA: calls.item.delivery_id, "tallybook_invoice": body["invoice_id"]},
        "pending_invoice_items_behavior": "exclude",
    }
    if collection["days_until_due"] is not None:
        params["days_until_due"] = collection["days_until_due"]
    if collection["uses_our_numbers"]:
        params["number"] = body["number"]
    return params


def _find(calls: Calls, customer: str, *, is_only_looking: bool = False) -> Any:
    """Return the invoice of this delivery: one that is final before any draft, the oldest first; None if there is none.

    Further drafts are deleted, unless this only looks: nobody will finalize them.
    """
    kept = calls.kept("invoice")
    known = None if kept is None else _retrieve(calls, kept)
    if known is not None and known.status != "draft":
        return known
    listed = calls.pages(calls.client.v1.invoices.list, customer=customer, created={"gte": calls.since_s})
    found = [one for one in listed if metadata_of(one).get(METADATA) == calls.item.delivery_id]
    if not found:
        return known
    ordered = sorted(found, key=lambda one: (one.status == "draft", one.created, one.id))
    if not is_only_looking:
        for other in ordered[1:]:
            if other.status == "draft":
                calls.read(calls.client.v1.invoices.delete, other.id)
    return ordered[0]


def _retrieve(calls: Calls, identity: str) -> Any:
    try:
        return calls.read(calls.client.v1.invoices.retrieve, identity)
    except stripe.InvalidRequestError as error:
        if is_missing(error):
            return None
        raise


def _fill(calls: Calls, body: dict[str, Any], draft: Any, settings: StripeSettings, *, is_new: bool) -> Any:
    """Add the parts of the lines that are not there; return the draft as it is then."""
    there: set[str] = set()
    if not is_new:
        held = calls.pages(calls.client.v1.invoices.line_items.list, draft.id)
        there = {metadata_of(line).get("tallybook_line", "") for line in held}
    size = settings.lines_per_call
    for at in range(0, len(body["lines"]), size):
        part = body["lines"][at : at + size]
        if part[0]["metadata"]["tallybook_line"] in there:
            continue
        params = {"lines": [_line_of(line) for line in part]}
        draft = calls.write(f"lines:{draft.id}:{at}:{size}", calls.client.v1.invoices.add_lines, draft.id, params)
    return draft


def _line_of(line: dict[str, Any]) -> dict[str, Any]:
    """Return a line of the payload as Stripe takes it."""
    params = {
        "amount": line["amount"],
        "description": line["description"],
        "metadata": line["metadata"],
        "period": {"start": line["start"], "end": line["end"]},
    }
    if taxes := line.get("taxes"):
        params["tax_amounts"] = [
            {
                "amount": tax["amount"],
                # Plain digits: the SDK's type is a float, and a float of ours would never be exact.
                "tax_rate_data": {
                    "display_name": tax["name"][:TAX_NAME_CHARACTERS],
                    "inclusive": tax["inclusive"],
                    "percentage": tax["percent"],
                },
                "taxable_amount": tax["taxable"],
            }
            for tax in taxes
        ]
    return params


def _tax_of(invoice: Any) -> int:
    """Return all taxes of an invoice as Stripe adds them up, included ones too."""
    return sum(one.amount for one in getattr(invoice, "total_taxes", None) or ())


def _count_of(calls: Calls, draft: Any) -> int:
    """Return how many lines a draft has; counted where Stripe does not say."""
    said = getattr(draft.lines, "total_count", None)
    return said if said is not None else sum(1 for _ in calls.pages(calls.client.v1.invoices.line_items.list, draft.id))


def _begin_again(calls: Calls, body: dict[str, Any], draft: Any, count: int) -> Answer:
    """Delete a draft that is not what we say, so that the next attempt makes a new one; a few times, for it may be for ever."""
    calls.read(calls.client.v1.invoices.delete, draft.id)
    times = int(calls.kept("begun_again") or "0") + 1
    generation = str(int(calls.kept("generation") or "1") + 1)
    calls.keep(invoice="", generation=generation, begun_again=str(times))
    ours = (len(body["lines"]), body["total"], body.get("tax", 0))
    detail = f"the draft had lines, total and taxes {(count, draft.total, _tax_of(draft))}, not {ours}; it was deleted"
    if times >= BEGUN_AGAIN_MAX:
        why = f"{detail}, for the {times}. time: look for taxes or discounts that Stripe adds to invoices of this customer"
        return Answer(Outcome.REJECTED_PERMANENT, why, code="total_differs")
    return Answer(Outcome.RETRY_SAFE, f"{detail} and is made again", code="total_differs")


def _settled(
    calls: Calls, body: dict[str, Any], there: Any, outcome: Outcome = Outcome.ALREADY_ACCEPTED_SAME
) -> Answer:
    """Judge an invoice that is not a draft any more, and keep its id."""
    if there.total != body["total"] or there.currency != body["currency"]:
        detail = f"Stripe holds {there.total} {there.currency}, ours is {body['total']} {body['currency']}"
        return Answer(Outcome.CONFLICT_OTHER_VALUE, detail, there.id)
    calls.link(KIND, body["invoice_id"], there.id)
    return Answer(outcome, f"{there.status} at Stripe", there.id)
