"""What buyers bought, asked of AWS: GetEntitlements, all pages, and when an agreement began.

Enters: a product code, and whom to ask for. Leaves: entitlements as AWS writes them, each with the name of its licence. Refuses:
filters that AWS does not take, and to stop at an empty page, which AWS may send with more to come.
Source: reference/providers.md, section 2.5. AWS answers in us-east-1 only.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from billing_adapters.adapter import Answer
from billing_adapters.aws_marketplace_adapter.answers import answered
from billing_adapters.aws_marketplace_adapter.buyers import ADAPTER, licence_of
from billing_adapters.errors import ProviderAway, QuestionRefused
from billing_adapters.outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

REGION = "us-east-1"
PAGE_SIZE = 25
PAGES_MAX = 10_000
CUSTOMER, ACCOUNT = "CUSTOMER_IDENTIFIER", "CUSTOMER_AWS_ACCOUNT_ID"
FILTERS = frozenset({CUSTOMER, ACCOUNT, "DIMENSION", "LICENSE_ARN"})


def read_entitlements(
    client: Any, product: str, filters: Mapping[str, Sequence[str]] | None = None
) -> list[dict[str, Any]]:
    """Return all entitlements of a product; of some, by filters: values of one key are OR-ed, keys AND-ed.

    Each has `LicenseArn`, of older products the name that `licence_of` gives instead. Raises QuestionRefused, ProviderAway,
    AdapterMisconfigured.
    """
    chosen = {key: list(values) for key, values in (filters or {}).items() if values}
    if chosen.keys() - FILTERS or {CUSTOMER, ACCOUNT} <= chosen.keys():
        raise QuestionRefused(
            f"GetEntitlements is filtered by {', '.join(sorted(FILTERS))}, and by one kind of customer"
        )
    found: list[dict[str, Any]] = []
    token: str | None = None
    seen: set[str] = set()
    for _ in range(PAGES_MAX):
        more = {} if token is None else {"NextToken": token}
        asked = {"ProductCode": product, "MaxResults": PAGE_SIZE, **({"Filter": chosen} if chosen else {}), **more}
        page = _asked(partial(client.get_entitlements, **asked))
        found += [_named(one, product) for one in page.get("Entitlements", [])]
        token = page.get("NextToken")
        if not token:
            return found
        if token in seen:
            break
        seen.add(token)
    raise ProviderAway(f"the pages of GetEntitlements of {product} do not end; nothing was imported, ask again later")


def start_of_agreement(client: Any, agreement_id: str) -> datetime | None:
    """Return when an agreement begins; None where AWS does not say. Raises ProviderAway, AdapterMisconfigured."""
    said = answered(ADAPTER, lambda: client.describe_agreement(agreementId=agreement_id))
    if isinstance(said, Answer):
        if said.outcome in {Outcome.RETRY_SAFE, Outcome.UNKNOWN}:
            raise ProviderAway(f"AWS did not describe agreement {agreement_id} ({said.detail})")
        return None
    return said.get("startTime")


def _named(entry: Mapping[str, Any], product: str) -> dict[str, Any]:
    if entry.get("LicenseArn"):
        return dict(entry)
    who = entry.get("CustomerIdentifier") or entry.get("CustomerAWSAccountId")
    return {**entry, "LicenseArn": licence_of(product, None, who)}


def _asked(call: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    answer = answered(ADAPTER, call)
    if not isinstance(answer, Answer):
        return answer
    if answer.outcome in {Outcome.RETRY_SAFE, Outcome.UNKNOWN}:
        raise ProviderAway(f"AWS did not say what was bought ({answer.detail}); nothing was imported, ask again later")
    raise QuestionRefused(f"AWS refuses the question: {answer.detail}")
