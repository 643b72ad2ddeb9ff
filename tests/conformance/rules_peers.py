"""The rules of `questioned.yaml` for the amounts around prices in `peers.jsonl`: by the oracle, or by hand in Fractions."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

from rating.iso4217 import minor_units
from tests import oracle, oracle_usage
from tests.conformance.cases import Rule

Values = dict[str, Any]
REFUSED = {"error": "refused"}
ZERO = Decimal(0)


def quantities_have_nine_places(asked: Values, expected: Values) -> Values | None:
    if int(asked.get("scale", 9)) <= 9:
        return None
    start, end = (_instant(asked[name]) for name in ("start", "end"))
    events = [
        {"event_time": _instant(at), "quantity": v, "recorded_at": row, "producer_id": "", "segment": 0, "row": row}
        for row, (at, v) in enumerate(asked["events"])
    ]
    span = {"start": start, "end": end, "period_start": start, "period_end": end}
    mean = oracle_usage.over_time(events, {"events": "delta"}, span)
    return {"value": Decimal(mean.numerator * 10**9 // mean.denominator).scaleb(-9)}


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def promise_in_order(asked: Values, expected: Values) -> Values | None:
    if "within" not in expected:
        return None
    left, within = max(ZERO, Decimal(asked["commit"]) - Decimal(asked["prior"])), []
    for line in asked["lines"]:
        within.append(min(left, Decimal(line)))
        left -= within[-1]
    lines = sum((Decimal(line) for line in asked["lines"]), ZERO)
    beyond = lines - sum(within, ZERO)
    return {"amount": lines - beyond + Decimal(asked["factor"]) * beyond, "within": within}


def balance_in_whole_minor_units(asked: Values, expected: Values) -> Values | None:
    quantum = Decimal(asked.get("quantum", "0.01"))
    return REFUSED if any(Decimal(amount) % quantum for _, amount in asked["wallets"]) else None


def blocks_have_an_open_end(asked: Values, expected: Values) -> Values | None:
    for unit in asked["units"]:
        blocks = [(Decimal(tier["size"]), Decimal(tier["max_blocks"])) for tier in unit["tiers"]]
        if blocks[-1][1] >= 0 and Decimal(unit["quantity"]) > sum((size * most for size, most in blocks), ZERO):
            return REFUSED
    return None


def discounts_are_exact(asked: Values, expected: Values) -> Values | None:
    start = Fraction(asked["start"])
    net = start
    for coupon in asked["coupons"]:
        net *= 1 - Fraction(coupon.get("percent") or 0) / 100
    net -= min(net, sum((Fraction(coupon.get("fixed") or 0) for coupon in asked["coupons"]), Fraction(0)))
    final = oracle.round_fraction(net, minor_units(asked["currency"]))
    ours = {"discount": Decimal(asked["start"]) - final, "final": final}
    return {name: ours[name] for name in expected if name in ours}


def floor_above_the_cap(asked: Values, expected: Values) -> Values | None:
    least, most = asked.get("min"), asked.get("max")
    return REFUSED if least is not None and most is not None and Decimal(most) < Decimal(least) else None


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        quantities_have_nine_places,
        promise_in_order,
        balance_in_whole_minor_units,
        blocks_have_an_open_end,
        discounts_are_exact,
        floor_above_the_cap,
    )
}
