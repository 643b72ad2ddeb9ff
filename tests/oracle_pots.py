"""The oracle of commitments over several billing periods: all periods since the plan version began, one after the other.

What enters: a commitment and a billing span. What leaves: the pot that it is in, and what earlier spans had of it. It counts the
billing periods of the plan version from its first one on, one by one. It shares no code with the packages, and refuses nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction
from itertools import count, takewhile
from typing import Any

from tests import oracle, oracle_adjust
from tests.oracle_adjust import Span

Row = dict[str, Any]


def has_pots(catalog: Row) -> bool:
    return any(is_pot(one) for plan in catalog["plans"] for one in plan.get("commitments", []))


def is_pot(one: Row) -> bool:
    return str(one.get("periods", 1)) != "1"


def months_until(catalog: Row, month: str) -> list[str]:
    """Return the months from the first subscription on, up to the one that is rated."""
    first = min((str(one["from"])[:7] for one in catalog["subscriptions"]), default=month)
    year, number = int(first[:4]), int(first[5:7])
    names = (f"{year + (number + at - 1) // 12}-{(number + at - 1) % 12 + 1:02}" for at in count())
    # A subscription may begin in the month before, in some zone.
    return list(takewhile(lambda name: name <= month, names))


def periods_of(catalog: Row, one: Row, span: Span) -> tuple[datetime, list[oracle.Period], int]:
    """Return when the plan version of a span began, its billing periods until the pot is over, and the place of the span."""
    size = 1 if one["periods"] == "plan_life" else int(one["periods"])
    plans = {(plan["name"], str(plan["version"])): plan for plan in catalog["plans"]}
    terms = span.plan.get("billing_period") or {}
    zone, anchor = terms.get("timezone", "UTC"), terms.get("anchor", "calendar")
    begin = oracle.moment(span.subscription["from"], zone)
    around = oracle.local(begin, zone).isoformat() if anchor == "subscription" else anchor
    for plan, opens, closes in oracle_adjust.phases(span.subscription, plans):
        if opens <= span.period.service_start < closes and plan["name"] == span.plan["name"]:
            end = min(closes, datetime(2040, 1, 1, tzinfo=UTC))
            every = list[oracle.Period]()
            for period in oracle.billing_periods(terms.get("every", "month"), around, zone, opens, end):
                every.append(period)
                if len(every) > size and every[-1 - size].start == span.period.start:
                    break
            return opens, every, [period.start for period in every].index(span.period.start)
    raise LookupError(span)


def pot_of(catalog: Row, one: Row, span: Span) -> tuple[tuple[Any, ...], int, bool]:
    """Return what names the pot, the place of the span in the life of its plan version, and whether it is the pot's last."""
    opens, periods, at = periods_of(catalog, one, span)
    number = 0 if one["periods"] == "plan_life" else at // int(one["periods"])
    ends = one["periods"] != "plan_life" and at % int(one["periods"]) == int(one["periods"]) - 1
    name = (span.subscription["id"], span.plan["name"], str(span.plan["version"]), opens, one["id"], number)
    return name, at, ends or at == len(periods) - 1


def amount_of(catalog: Row, one: Row, span: Span) -> Fraction:
    """Return all of the pot; where it is prorated, each of its billing periods is an equal part, of which it has its share."""
    whole = Fraction(str(one["amount"]))
    if one["periods"] == "plan_life" or not one.get("prorate", True):
        return whole
    _, periods, at = periods_of(catalog, one, span)
    size = int(one["periods"])
    first = at // size * size
    parts = []
    for period in periods[first : first + size]:
        mate = Span(span.subscription, span.plan, period)
        by_days = oracle_adjust.oracle_dialect.answer(span.plan, "minimum_share") == "whole_days"
        is_whole = (period.service_start, period.service_end) == (period.start, period.end)
        basis = "days_inclusive" if by_days else None
        parts.append(
            Fraction(1) if is_whole else oracle_adjust.share(mate, period.service_start, period.service_end, basis)
        )
    return oracle_adjust.cut(whole * sum(parts, start=Fraction(0)) / size)


def mates(catalog: Row, one: Row, span: Span, done: list[Span]) -> list[Span]:
    """Return the spans before this one in its pot."""
    if not is_pot(one):
        return []
    name, at, _ = pot_of(catalog, one, span)
    same = [
        other
        for other in done
        if other.subscription["id"] == span.subscription["id"]
        and (other.plan["name"], str(other.plan["version"])) == (span.plan["name"], str(span.plan["version"]))
    ]
    placed = [(pot_of(catalog, one, other), other) for other in same]
    return [other for (pot, place, _), other in placed if pot == name and place < at]
