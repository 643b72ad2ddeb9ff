"""Grants and overrides as the catalog files write them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from rating.grants import EntitlementOverride, TenantGrant


def grant(**keys: Any) -> TenantGrant:
    said = {"id": "top-up", "tenant": "acme", "feature": "tokens", "amount": "50", "effective": "2026-01-10", **keys}
    return TenantGrant.model_validate(said)


def test_what_was_given_once_stays_and_what_recurs_does_not() -> None:
    assert grant().left_at_most == 50
    assert grant(recurs="month").left_at_most == 0
    assert grant(recurs="month", rollover_max="5").left_at_most == Decimal(5)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"amount": "0"}, "not above 0"),
        ({"expires": "2026-01-10"}, "expires before it is effective"),
        ({"rollover_min": "51"}, "more than rollover_max"),
        ({"priority": "-1"}, "not a priority"),
    ],
)
def test_what_cannot_be_meant_is_refused(keys: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        grant(**keys)


def test_an_override_has_a_time_and_the_rules_of_an_entitlement() -> None:
    said = {"feature": "sso", "type": "boolean", "from": "2026-02-01", "to": "2026-01-01"}
    with pytest.raises(ValidationError, match="write a later end"):
        EntitlementOverride.model_validate(said)
    with pytest.raises(ValidationError, match="has no quota"):
        EntitlementOverride.model_validate({"feature": "sso", "type": "boolean", "quota": "1"})
