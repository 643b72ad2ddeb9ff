"""Agreements as AWS Marketplace knows them, and requests to lower what was invoiced under one: BillingAdjustmentRequests.

Enters: DescribeAgreement, ListAgreementInvoiceLineItems, BatchCreateBillingAdjustmentRequest, GetBillingAdjustmentRequest and
ListBillingAdjustmentRequests as botocore sends them. Leaves: partial answers, `items` beside `errors`. Refuses: entry by entry,
agreements and invoices that are not there, other currencies, and more than what is left of an invoice.
Source: reference/providers.md, section 2.5.

A client token is one request: the same entry again answers the same id, another one under it is a conflict. A request is PENDING
until `settle` lets it be validated: COMPLETED, or VALIDATION_FAILED where earlier ones took what was left.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from billing_adapters.testing.aws_refusal import Refused
from billing_adapters.testing.aws_wire import instant_of
from metering.clock import from_us
from metering.numbers import trimmed

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from billing_adapters.testing.aws_wire import Asked
    from metering.clock import Clock

_ASKED = (
    "agreementId",
    "originalInvoiceId",
    "adjustmentAmount",
    "currencyCode",
    "adjustmentReasonCode",
    "description",
)


@dataclass(slots=True)
class _Agreement:
    starts_at: datetime
    currency: str
    invoices: dict[str, Decimal] = field(default_factory=dict)


class Agreements:
    """`requests` holds every request by its id, as GetBillingAdjustmentRequest answers it; `by_token` what came under a token.

    `settles_after`: how long AWS takes to validate one; None: until `settle`. `shows_requests`: does its list know of them yet?
    """

    def __init__(self, clock: Clock) -> None:
        self.requests: dict[str, dict[str, Any]] = {}
        self.shows_requests = True
        self.settles_after: timedelta | None = None
        self._clock = clock
        self._held: dict[str, _Agreement] = {}
        self.by_token: dict[str, tuple[dict[str, Any], str]] = {}

    def add(self, agreement_id: str, *, starts_at: datetime, currency: str = "USD") -> None:
        """Let there be an agreement."""
        self._held[agreement_id] = _Agreement(starts_at, currency)

    def invoice(self, agreement_id: str, invoice_id: str, amount: str) -> None:
        """Let an invoice be issued under it; `amount` is before tax."""
        self._held[agreement_id].invoices[invoice_id] = Decimal(amount)

    def settle(self) -> None:
        """Let AWS validate what is pending, in the order it came."""
        self._settle(from_us(self._clock.now_us()))

    def _settle(self, made_until: datetime) -> None:
        taken: dict[str, Decimal] = {}
        for one in self.requests.values():
            invoice, amount = one["originalInvoiceId"], Decimal(one["adjustmentAmount"])
            left = self._held[one["agreementId"]].invoices[invoice] - taken.get(invoice, Decimal(0))
            if one["status"] == "PENDING" and one["createdAt"] <= made_until:
                is_good = amount <= left
                one["status"] = "COMPLETED" if is_good else "VALIDATION_FAILED"
                one["updatedAt"] = from_us(self._clock.now_us())
                if not is_good:
                    one["statusMessage"] = f"{trimmed(left)} is left of the invoice"
            if one["status"] == "COMPLETED":
                taken[invoice] = taken.get(invoice, Decimal(0)) + amount

    def describe_agreement(self, asked: Asked, _how: str | None) -> dict[str, Any]:
        agreement_id = asked.parameters["agreementId"]
        return {"agreementId": agreement_id, "startTime": self._agreement(agreement_id).starts_at, "status": "ACTIVE"}

    def list_invoice_lines(self, asked: Asked, _how: str | None) -> dict[str, Any]:
        agreement_id, only = asked.parameters["agreementId"], asked.parameters.get("invoiceId")
        agreement = self._agreement(agreement_id)
        groups = [
            {
                "agreementId": agreement_id,
                "invoiceId": invoice,
                "invoiceType": "INVOICE",
                "pricingCurrencyAmount": {
                    "amount": trimmed(amount),
                    "maxAdjustmentAmount": trimmed(amount - self._taken(invoice)),
                    "currencyCode": agreement.currency,
                },
            }
            for invoice, amount in agreement.invoices.items()
            if only in {None, invoice}
        ]
        return {"agreementInvoiceLineItemGroupSummaries": groups}

    def create(self, asked: Asked, _how: str | None) -> dict[str, Any]:
        """Answer one batch: what was taken, and what was not, by client token."""
        items, errors = [], []
        for entry in asked.parameters["billingAdjustmentRequestEntries"]:
            token = entry["clientToken"]
            code, said = self._take(entry)
            if code is None:
                items.append({"billingAdjustmentRequestId": said, "clientToken": token})
            else:
                errors.append({"code": code, "message": said, "clientToken": token})
        return {"items": items, "errors": errors}

    def get(self, asked: Asked, _how: str | None) -> dict[str, Any]:
        self._validate()
        found = self.requests.get(asked.parameters["billingAdjustmentRequestId"])
        if found is None or found["agreementId"] != asked.parameters["agreementId"]:
            raise Refused("ResourceNotFoundException", "there is no such request")
        return found

    def list(self, asked: Asked, _how: str | None) -> dict[str, Any]:
        """Answer one page of requests, newest first, without description and reason."""
        self._validate()
        wanted = asked.parameters
        found = [
            {
                **{
                    name: value
                    for name, value in one.items()
                    if name not in {"description", "adjustmentReasonCode", "statusMessage"}
                },
                "agreementType": "PurchaseAgreement",
                "catalog": "AWSMarketplace",
            }
            for one in reversed(self.requests.values())
            if self.shows_requests
            and wanted.get("agreementId") in {None, one["agreementId"]}
            and wanted.get("status") in {None, one["status"]}
            and ("createdAfter" not in wanted or one["createdAt"] >= instant_of(wanted["createdAfter"]))
        ]
        at, size = int(wanted.get("nextToken") or 0), wanted.get("maxResults", 50)
        page: dict[str, Any] = {"items": found[at : at + size]}
        if at + size < len(found):
            page["nextToken"] = str(at + size)
        return page

    def _validate(self) -> None:
        if self.settles_after is not None:
            self._settle(from_us(self._clock.now_us()) - self.settles_after)

    def _agreement(self, agreement_id: str) -> _Agreement:
        if agreement_id not in self._held:
            raise Refused("ResourceNotFoundException", f"there is no agreement {agreement_id}")
        return self._held[agreement_id]

    def _taken(self, invoice: str) -> Decimal:
        mine = [one for one in self.requests.values() if one["originalInvoiceId"] == invoice]
        return sum(
            (Decimal(one["adjustmentAmount"]) for one in mine if one["status"] != "VALIDATION_FAILED"), Decimal(0)
        )

    def _take(self, entry: dict[str, Any]) -> tuple[str | None, str]:
        """Return (None, id), or the code of an error and a sentence."""
        token, kept = entry["clientToken"], self.by_token.get(entry["clientToken"])
        if kept is not None:
            return (None, kept[1]) if kept[0] == entry else ("CONFLICT_EXCEPTION", f"{token} asked for something else")
        agreement = self._held.get(entry["agreementId"])
        if agreement is None or entry["originalInvoiceId"] not in agreement.invoices:
            return "RESOURCE_NOT_FOUND_EXCEPTION", "there is no such agreement or invoice"
        amount = entry["adjustmentAmount"]
        if amount in {"", "."} or Decimal(amount) <= 0 or entry["currencyCode"] != agreement.currency:
            return "VALIDATION_EXCEPTION", f"an amount above zero in {agreement.currency}"
        if Decimal(amount) > agreement.invoices[entry["originalInvoiceId"]]:
            return "VALIDATION_EXCEPTION", "it is more than the invoice"
        identity, now = f"ba-{len(self.requests) + 1:08}", from_us(self._clock.now_us())
        self.requests[identity] = {
            "billingAdjustmentRequestId": identity,
            **{name: entry[name] for name in _ASKED if name in entry},
            "status": "PENDING",
            "createdAt": now,
            "updatedAt": now,
        }
        self.by_token[token] = (entry, identity)
        return None, identity
