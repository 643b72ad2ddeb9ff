"""Buyers as AWS Marketplace knows them: ResolveCustomer with tokens that expire, GetEntitlements page by page.

Enters: these calls as botocore sends them. Leaves: answers in AWS's words. Refuses: tokens it never gave, tokens that are old or
were redeemed, filters that exclude each other. Source: reference/providers.md, sections 2.4, 2.5 and 2.8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from billing_adapters.testing.aws_refusal import Refused

if TYPE_CHECKING:
    from billing_adapters.testing.aws_wire import Asked
    from metering.clock import Clock

# Neither is published: see providers.md, section 2.4.
TOKEN_LIVES = timedelta(hours=4)
_FIELDS = {
    "CUSTOMER_IDENTIFIER": "CustomerIdentifier",
    "CUSTOMER_AWS_ACCOUNT_ID": "CustomerAWSAccountId",
    "DIMENSION": "Dimension",
    "LICENSE_ARN": "LicenseArn",
}
_US = timedelta(microseconds=1)


@dataclass(slots=True)
class _Token:
    answer: dict[str, Any]
    given_us: int
    is_redeemed: bool = False


class Buyers:
    """`entitlements` is what GetEntitlements answers; change it as buyers would. `empty_pages` come before each full one."""

    def __init__(self, clock: Clock, region: str) -> None:
        self.entitlements: list[dict[str, Any]] = []
        self.page_size = 25
        self.empty_pages = 0
        self._clock = clock
        self._region = region
        self._tokens: dict[str, _Token] = {}

    def give_token(self, token: str, *, product: str, agreement_id: str | None = None, **who: str) -> str:
        """Send a buyer to the fulfilment URL. `who` are fields of the answer: LicenseArn, CustomerAWSAccountId ..."""
        answer: dict[str, Any] = {"ProductCode": product, **who}
        if agreement_id is not None:
            answer["Metadata"] = {"AgreementId": agreement_id}
        self._tokens[token] = _Token(answer, self._clock.now_us())
        return token

    def entitle(
        self, product: str, dimension: str, value: Mapping[str, Any], until: datetime | None, **who: str
    ) -> None:
        """Let a buyer have an entitlement; one of the same buyer and dimension is replaced."""
        entry: dict[str, Any] = {"ProductCode": product, "Dimension": dimension, "Value": dict(value), **who}
        if until is not None:
            entry["ExpirationDate"] = until
        key = ("ProductCode", "Dimension", *who)
        self.entitlements = [one for one in self.entitlements if any(one.get(name) != entry[name] for name in key)] + [
            entry
        ]

    def resolve_customer(self, asked: Asked, _how: str | None) -> dict[str, Any]:
        """Answer one call. A token is good for one of them, for some hours."""
        token = self._tokens.get(asked.parameters["RegistrationToken"])
        if token is None:
            raise Refused("InvalidTokenException", "the registration token is not valid")
        if token.is_redeemed or self._clock.now_us() - token.given_us >= TOKEN_LIVES // _US:
            raise Refused("ExpiredTokenException", "the registration token was submitted before, or is too old")
        token.is_redeemed = True
        return token.answer

    def get_entitlements(self, asked: Asked, _how: str | None) -> dict[str, Any]:
        """Answer one page. An empty page may have more to come."""
        request, chosen = asked.parameters, asked.parameters.get("Filter", {})
        if asked.region != "us-east-1":
            raise Refused("UnknownOperationException", "GetEntitlements is answered in us-east-1")
        if chosen.keys() - _FIELDS.keys() or {"CUSTOMER_IDENTIFIER", "CUSTOMER_AWS_ACCOUNT_ID"} <= chosen.keys():
            raise Refused("InvalidParameterException", f"filters {sorted(chosen)} are not taken together")
        found = [
            one for one in self.entitlements if one["ProductCode"] == request["ProductCode"] and _fits(one, chosen)
        ]
        at, emptied = (int(part) for part in request.get("NextToken", "0-0").split("-"))
        if emptied < self.empty_pages:
            return {"Entitlements": [], "NextToken": f"{at}-{emptied + 1}"}
        size = min(self.page_size, request.get("MaxResults", 25))
        page: dict[str, Any] = {"Entitlements": found[at : at + size]}
        if at + size < len(found):
            page["NextToken"] = f"{at + size}-0"
        return page


def _fits(entry: Mapping[str, Any], chosen: Mapping[str, Sequence[str]]) -> bool:
    return all(entry.get(_FIELDS[key]) in values for key, values in chosen.items())
