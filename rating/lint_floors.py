"""What prices of a plan owe together at least, for the lint of maximums.

Enters: a plan and one of its maximums. Leaves: the minimums, commitments and promises per bucket inside it, no price twice.
Refuses: to judge. What is promised over several billing periods is compared with so many maximums by the plan itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from rating.adjust import is_pot, scope_of

if TYPE_CHECKING:
    from decimal import Decimal

    from rating.adjust import Commitment, Maximum, Minimum
    from rating.plans import Plan

# The days of the shortest billing period of each length.
_DAYS_AT_LEAST = {"day": 1, "week": 7, "month": 28, "quarter": 90, "year": 365}


class Floor(NamedTuple):
    """What prices of a plan owe together at least, per billing period."""

    name: str
    prices: frozenset[str]
    amount: Decimal


def floors_inside(plan: Plan, maximum: Maximum) -> list[Floor]:
    """Return what is owed within a maximum, no price twice: the narrower first, of one price the larger."""
    ids = [price.id for price in plan.prices]
    promised = (one for one in plan.commitments if one.true_up and not is_pot(one))
    owed: list[Minimum | Commitment] = [*plan.minimums, *promised]
    floors = [Floor(one.id, frozenset(scope_of(one, ids)), one.amount) for one in owed]
    floors += [floor for price in plan.prices if (floor := _promise_of(price, plan)) is not None]
    capped, covered, inside = set(scope_of(maximum, ids)), set[str](), []
    for floor in sorted(floors, key=lambda one: (len(one.prices), -one.amount, one.name)):
        if floor.prices <= capped and not floor.prices & covered:
            covered |= floor.prices
            inside.append(floor)
    return inside


def _promise_of(price: Any, plan: Plan) -> Floor | None:
    """Return what the buckets of a price owe in the shortest billing period, whole buckets only."""
    promised = getattr(price, "bucket_commitment", None)
    if promised is None or not promised.true_up:
        return None
    days = _DAYS_AT_LEAST[plan.billing_period.every]
    # A day may have an hour less where the clocks change.
    buckets = {"hour": 24 * days - 1, "day": days, "week": days // 7, "month": days // 28}[price.price_per]
    return Floor(f"the buckets of {price.id}", frozenset({price.id}), promised.amount * buckets)
