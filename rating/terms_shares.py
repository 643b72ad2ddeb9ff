"""Which share of an amount a billing span has.

Enters: a span, its plan, an amount that may be prorated. Leaves: the exact amount of the span.
Refuses: to decide what is prorated; that is said by the plan.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from rating.proration import amount_of_share, share_between

if TYPE_CHECKING:
    from datetime import datetime
    from decimal import Decimal
    from fractions import Fraction

    from rating.plans import Plan
    from rating.proration import Basis
    from rating.spans import BillingSpan


class Prorated(Protocol):
    """An amount per billing period, and whether a part of a period has only its share."""

    @property
    def amount(self) -> Decimal: ...
    @property
    def prorate(self) -> bool: ...


def exact_share(one: Prorated, span: BillingSpan, plan: Plan, basis: Basis | None = None) -> Decimal:
    """Return the amount of a span, exact to 21 places: its share if prorated, else all of it."""
    if not one.prorate or span.service == span.period:
        return one.amount
    return amount_of_share(one.amount, share_in(span, plan, span.service.start, span.service.end, basis))


def share_in(span: BillingSpan, plan: Plan, start: datetime, end: datetime, basis: Basis | None = None) -> Fraction:
    """Return the share of the billing period of a span that [start, end) is, by the basis of the plan unless another is said."""
    cycle = plan.billing_period
    return share_between(start, end, span.period, basis or plan.proration, cycle.timezone, cycle.every)
