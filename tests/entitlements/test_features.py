"""What an entitlement may say, and what it refuses to say."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from entitlements.features import Entitlement


def metered(**keys: Any) -> Entitlement:
    return Entitlement.model_validate({"feature": "tokens", "type": "metered", "meter": "tokens", **keys})


@pytest.mark.parametrize(
    ("value", "value_type", "means"),
    [
        ("25", None, "25"),
        ("25", "integer", 25),
        ("0.050", "decimal", Decimal("0.050")),
        ("false", "boolean", False),
        ("gold", "text", "gold"),
    ],
)
def test_a_static_value_has_a_type(value: str, value_type: str | None, means: object) -> None:
    said = {"feature": "seats", "type": "static", "value": value, "value_type": value_type}
    got = Entitlement.model_validate({key: one for key, one in said.items() if one is not None}).typed_value
    assert (got, type(got)) == (means, type(means))


@pytest.mark.parametrize(("value", "value_type"), [("2.5", "integer"), ("yes", "boolean"), ("1e3", "decimal")])
def test_a_value_of_another_type_is_refused(value: str, value_type: str) -> None:
    with pytest.raises(ValidationError, match="write"):
        Entitlement.model_validate({"feature": "seats", "type": "static", "value": value, "value_type": value_type})


def test_a_quota_is_soft_and_lets_overage_through_unless_said_otherwise() -> None:
    soft, hard = metered(quota="10"), metered(quota="10", limit="hard")
    assert (soft.is_hard, soft.stops, soft.opens_on_outage) == (False, False, True)
    assert (hard.is_hard, hard.stops, hard.opens_on_outage) == (True, True, False)
    assert metered(quota="10", overage="blocked", on_outage="closed").opens_on_outage is False


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"quota": "10", "limit": "hard", "overage": "allowed"}, "write blocked, or limit: soft"),
        ({"limit": "hard"}, "without a quota the use is unlimited"),
        ({"quota": "10", "rollover_min": "5", "rollover_max": "4"}, "is more than rollover_max"),
        ({"quota": "10", "rollover_min": "5"}, "there is no rollover_max"),
        ({"quota": "10", "priority": "1001"}, "is not a priority"),
        ({"quota": "10", "reset_anchor": "subscription"}, "have an anchor of their own"),
        ({"quota": "10", "enabled": "true"}, "a metered entitlement has no enabled"),
    ],
)
def test_what_cannot_be_meant_is_refused(keys: dict[str, str], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        metered(**keys)


def test_what_is_not_said_is_not_written_down() -> None:
    written = metered(quota="10").model_dump(exclude_none=True)
    assert set(written) == {"feature", "type", "meter", "quota", "reset", "overage"}
