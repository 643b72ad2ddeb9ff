"""Billing adjustment requests: the way down for what AWS Marketplace invoiced too high, because too much was metered.

Enters: an `Adjustment` of an invoice of AWS's. Leaves: an answer per request; it is delivered when AWS completed it. Refuses:
amounts that are not above zero, reasons that AWS does not know, and to ask twice. Source: reference/providers.md, section 2.5.

A request is created by a call that may take some entries of a batch and refuse others, and is validated later: PENDING, then
COMPLETED or VALIDATION_FAILED. Its id is kept before anything else, and from then on only its state is asked. When no answer
came, the requests of the agreement are read back: ours is the one whose description holds our delivery's key. Where none does,
the same entry goes again under the same client token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from billing_adapters.adapter import Answer, Capabilities, Found, Intent, Numbers, ReadBack
from billing_adapters.aws_marketplace_adapter.answers import answered
from billing_adapters.aws_marketplace_adapter.clients import make_client
from billing_adapters.errors import ProviderAway, QuestionRefused
from billing_adapters.outcomes import Outcome
from metering.numbers import trimmed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from billing_adapters.adapter import Desk, Item

KIND = "billing_adjustment"
DECIMALS_MAX = 8
REASONS = (
    "INCORRECT_METERING",
    "TEST_ENVIRONMENT_CHARGES",
    "INCORRECT_TERMS_ACCEPTED",
    "ALTERNATIVE_PROCUREMENT_CHANNEL",
    "UNINTENDED_RENEWAL",
    "BUYER_DISSATISFACTION",
    "OTHER",
)
# 500 with our key behind it.
DESCRIPTION_CHARACTERS = 440
PAGE_SIZE, PAGES_MAX = 50, 1000
CAPABILITIES = Capabilities(
    name="aws_adjustments",
    kinds=(KIND,),
    grain="line",
    natural_key=("agreement", "invoice", "adjustment"),
    numbers=Numbers("decimal_text", DECIMALS_MAX),
    zero="refused",
    repeat_same="safe",
    repeat_other="refused",
    # What the list does not show yet is asked for again under the same token, which AWS knows; so absence need not be certain.
    read_back=ReadBack(can_prove_absence=True),
    downwards=("a further request, up to what is left of the invoice",),
    upwards=("a later hour",),
    batch_items=10,
    calls_per_s=2,
)
_AGREEMENT = re.compile(r"[A-Za-z0-9_/-]{1,64}")
_CURRENCY = re.compile(r"[A-Z]{3}")
_OF_ENTRIES = {
    "CONFLICT_EXCEPTION": Outcome.CONFLICT_OTHER_VALUE,
    "VALIDATION_EXCEPTION": Outcome.REJECTED_PERMANENT,
    "RESOURCE_NOT_FOUND_EXCEPTION": Outcome.REJECTED_PERMANENT,
    "INTERNAL_FAILURE": Outcome.UNKNOWN,
}


@dataclass(frozen=True, slots=True)
class Adjustment:
    """By how much an invoice of AWS's is to be lowered, before tax: a source of `prepare`.

    `adjustment_id` tells two requests of one invoice apart. `description` is for the buyer and AWS.
    """

    adjustment_id: str
    account_id: str
    agreement_id: str
    invoice_id: str
    amount: Decimal
    currency: str
    reason: str = "INCORRECT_METERING"
    description: str = ""


@dataclass(frozen=True, slots=True)
class AdjustmentAdapter:
    """Delivers requests. `client` is boto3's `marketplace-agreement`. `look_again_s`: how long AWS is left to validate."""

    client: Any
    look_again_s: int = 6 * 3600

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    def prepare(self, source: object) -> Sequence[Intent]:
        """Return the request of an `Adjustment`."""
        return [_intent(source)] if isinstance(source, Adjustment) else []

    def send(self, items: Sequence[Item], desk: Desk) -> Sequence[Answer]:
        answers = {
            item.delivery_id: self._looked(item, desk) for item in items if item.progress.get("request") is not None
        }
        new = [item for item in items if item.delivery_id not in answers]
        if new:
            answers.update(self._created(new, desk))
        return [answers[item.delivery_id] for item in items]

    def read_back(self, items: Sequence[Item], desk: Desk) -> Sequence[Found]:
        return [self._found(item, desk) for item in items]

    def _created(self, items: Sequence[Item], desk: Desk) -> dict[str, Answer]:
        desk.spend()
        entries = [_entry(item) for item in items]
        said = answered(
            CAPABILITIES.name,
            lambda: self.client.batch_create_billing_adjustment_request(billingAdjustmentRequestEntries=entries),
            len(items),
        )
        if isinstance(said, Answer):
            return dict.fromkeys((item.delivery_id for item in items), said)
        made = {one["clientToken"]: one["billingAdjustmentRequestId"] for one in said.get("items", [])}
        errors = {one["clientToken"]: one for one in said.get("errors", [])}
        answers = {}
        for item in items:
            token = item.delivery_id
            if token in made:
                desk.keep(token, request=made[token])
                answers[token] = self._waiting(made[token], "it is PENDING")
            elif token in errors:
                code = errors[token]["code"]
                outcome = _OF_ENTRIES.get(code, Outcome.UNKNOWN)
                answers[token] = Answer(outcome, f"{code}: {errors[token].get('message', '')}", code=code)
            else:
                answers[token] = Answer(Outcome.UNKNOWN, "the answer does not speak of it")
        return answers

    def _looked(self, item: Item, desk: Desk) -> Answer:
        """Return what became of a request that AWS took."""
        request = self._request(item, item.progress["request"], desk)
        if isinstance(request, Answer):
            return request
        identity, status = request["billingAdjustmentRequestId"], request["status"]
        if status == "COMPLETED":
            return Answer(Outcome.ACCEPTED, status, identity, code=status)
        if status == "VALIDATION_FAILED":
            why = request.get("statusMessage", "AWS does not say why")
            return Answer(Outcome.REJECTED_PERMANENT, f"{status}: {why}", identity, code=status)
        return self._waiting(identity, f"it is {status}")

    def _waiting(self, identity: str, detail: str) -> Answer:
        """AWS has it and did not decide: whether the invoice is lowered is not known yet."""
        return Answer(Outcome.UNKNOWN, f"{detail} at AWS", identity, code="PENDING", retry_after_s=self.look_again_s)

    def _request(self, item: Item, identity: str, desk: Desk) -> Mapping[str, Any] | Answer:
        agreement_id = orjson.loads(item.payload)["agreementId"]
        desk.spend()
        return answered(
            CAPABILITIES.name,
            lambda: self.client.get_billing_adjustment_request(
                agreementId=agreement_id, billingAdjustmentRequestId=identity
            ),
        )

    def _found(self, item: Item, desk: Desk) -> Found:
        identity = item.progress.get("request")
        if identity is not None:
            return self._state(item, self._request(item, identity, desk))
        body = orjson.loads(item.payload)
        for one in self._listed(item, body["agreementId"], desk):
            if isinstance(one, Answer):
                return Found("failed", one.detail)
            same = ("originalInvoiceId", "adjustmentAmount", "currencyCode")
            if all(_value(one[name]) == _value(body[name]) for name in same):
                request = self._request(item, one["billingAdjustmentRequestId"], desk)
                if isinstance(request, Answer):
                    return Found("failed", request.detail)
                if item.delivery_id in request.get("description", ""):
                    return self._state(item, request)
        return Found("absent")

    def _state(self, item: Item, request: Mapping[str, Any] | Answer) -> Found:
        if isinstance(request, Answer):
            return Found("failed", request.detail)
        identity, status = request["billingAdjustmentRequestId"], request["status"]
        # What is pending, or failed, is looked at by `send`, which says so.
        return Found("same" if status == "COMPLETED" else "partial", status, identity)

    def _listed(self, item: Item, agreement_id: str, desk: Desk) -> Iterator[Mapping[str, Any] | Answer]:
        """Yield the requests of an agreement since the item was meant, or the failure that ends them."""
        token: str | None = None
        for _ in range(PAGES_MAX):
            desk.spend()
            more = {} if token is None else {"nextToken": token}
            asked = {
                "agreementId": agreement_id,
                # AWS's clock and ours may differ.
                "createdAfter": item.enqueued_at - timedelta(hours=1),
                "maxResults": PAGE_SIZE,
                **more,
            }
            page = answered(CAPABILITIES.name, partial(self.client.list_billing_adjustment_requests, **asked))
            if isinstance(page, Answer):
                yield page
                return
            yield from page.get("items", [])
            token = page.get("nextToken")
            if not token:
                return
        yield Answer(Outcome.UNKNOWN, "the pages of billing adjustment requests do not end")


def make_adjustments(settings: Mapping[str, Any]) -> AdjustmentAdapter:
    """Return the adapter of the section [delivery.aws_adjustments]. The agreements API answers in us-east-1."""
    chosen = dict(settings)
    address = chosen.pop("address", None)
    return AdjustmentAdapter(make_client("marketplace-agreement", "us-east-1", address), **chosen)


def most_adjustable(client: Any, agreement_id: str, invoice_id: str) -> tuple[Decimal, str]:
    """Return up to how much an invoice can be lowered, and its currency. Raises QuestionRefused, ProviderAway."""
    said = answered(
        CAPABILITIES.name,
        lambda: client.list_agreement_invoice_line_items(
            agreementId=agreement_id, groupBy="INVOICE_ID", invoiceId=invoice_id
        ),
    )
    if isinstance(said, Answer):
        if said.outcome in {Outcome.RETRY_SAFE, Outcome.UNKNOWN}:
            raise ProviderAway(f"AWS did not say what can be adjusted ({said.detail}); ask again later")
        raise QuestionRefused(f"AWS refuses the question: {said.detail}")
    for one in said.get("agreementInvoiceLineItemGroupSummaries", []):
        money = one.get("pricingCurrencyAmount") or {}
        if one.get("invoiceId") == invoice_id and one.get("invoiceType", "INVOICE") == "INVOICE":
            return Decimal(money.get("maxAdjustmentAmount") or money["amount"]), money["currencyCode"]
    raise QuestionRefused(f"AWS knows no invoice {invoice_id} of agreement {agreement_id}")


def _intent(one: Adjustment) -> Intent:
    body = {
        "agreementId": one.agreement_id,
        "originalInvoiceId": one.invoice_id,
        "adjustmentAmount": trimmed(one.amount),
        "currencyCode": one.currency,
        "adjustmentReasonCode": one.reason,
        "description": one.description,
    }
    return Intent(
        kind=KIND,
        natural_key=f"{one.agreement_id} {one.invoice_id} {one.adjustment_id}",
        payload=orjson.dumps(body, option=orjson.OPT_SORT_KEYS).decode(),
        account_id=one.account_id,
        subject=one.invoice_id,
        amount=-one.amount,
        currency=one.currency,
        refusal=_refusal(one),
    )


def _refusal(one: Adjustment) -> str | None:
    if not one.amount.is_finite() or one.amount <= 0:
        return f"an adjustment lowers an invoice by an amount above zero, not by {one.amount}"
    if -int(one.amount.normalize().as_tuple().exponent) > DECIMALS_MAX:
        return f"AWS takes up to {DECIMALS_MAX} decimals, not {one.amount}"
    if one.reason not in REASONS:
        return f"{one.reason} is no reason of AWS's; write one of {', '.join(REASONS)}"
    if not _AGREEMENT.fullmatch(one.agreement_id) or not 1 <= len(one.invoice_id) <= 1024:
        return f"{one.agreement_id!r} and {one.invoice_id!r} are no agreement and invoice of AWS's"
    if not _CURRENCY.fullmatch(one.currency):
        return f"{one.currency!r} is no currency"
    if len(one.description) > DESCRIPTION_CHARACTERS:
        return f"a description has up to {DESCRIPTION_CHARACTERS} characters"
    return None


def _entry(item: Item) -> dict[str, Any]:
    body = orjson.loads(item.payload)
    # By the key in it the request is known for ours, when no answer came.
    description = f"{body['description']} [{item.delivery_id}]".strip()
    return {**body, "description": description, "clientToken": item.delivery_id}


def _value(text: str) -> Decimal | str:
    """Return a field as it is compared: numbers by value, for AWS may write them with other zeros."""
    return Decimal(text) if re.fullmatch(r"[0-9]*\.?[0-9]+", text) else text
