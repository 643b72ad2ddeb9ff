"""A decision: true as it allows, exact, and as lazy as it says."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from entitlements.decisions import BILLIONTHS, Decision, Standing, from_billionths, to_billionths


def test_a_decision_says_what_is_left() -> None:
    decision = Decision.of(True, "within_quota", tenant="acme", feature="tokens", limit=100, used=Decimal("30.5"))
    assert decision
    assert (decision.limit, decision.used, decision.remaining) == (Decimal(100), Decimal("30.5"), Decimal("69.5"))
    assert decision.overage == 0


def test_what_this_process_used_since_counts() -> None:
    standing = Standing("acme", "tokens", limit=10 * BILLIONTHS, used=8 * BILLIONTHS, remaining=2 * BILLIONTHS)
    decision = Decision(False, "quota_exhausted", standing, since=3 * BILLIONTHS)
    assert not decision
    assert (decision.used, decision.remaining, decision.overage) == (Decimal(11), Decimal(0), Decimal(1))


def test_without_a_limit_nothing_is_left_or_over() -> None:
    decision = Decision.of(True, "granted", tenant="acme", feature="sso", used=5)
    assert (decision.limit, decision.remaining, decision.overage) == (None, None, Decimal(0))


@pytest.mark.parametrize("text", ["0", "1", "-1", "0.000000001", "-0.5", "123456789012345678901234567.123456789"])
def test_billionths_lose_nothing(text: str) -> None:
    assert from_billionths(to_billionths(Decimal(text))) == Decimal(text)


def test_more_than_nine_places_are_refused() -> None:
    with pytest.raises(ValueError, match="nine decimal places"):
        to_billionths(Decimal("0.0000000001"))


def test_json_holds_quantities_as_text() -> None:
    at = datetime(2026, 2, 1, tzinfo=UTC)
    decision = Decision.of(True, "within_quota", tenant="a", feature="f", limit=Decimal("1.50"), resets_at=at, value=3)
    said = json.loads(json.dumps(decision.as_dict()))
    assert (said["limit"], said["remaining"], said["resets_at"], said["value"]) == (
        "1.5",
        "1.5",
        "2026-02-01T00:00:00Z",
        3,
    )
