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


def balance_in_whole_minor_units(asked: Values, expected: Values) -> Values | None:
    quantum = Decimal(asked.get("quantum", "0.01"))
    return REFUSED if any(Decimal(amount) % quantum for _, amount in asked["wallets"]) else None


def discounts_are_exact(asked: Values, expected: Values) -> Values | None:
    start = Fraction(asked["start"])
    net = start
    for coupon in asked["coupons"]:
        net *= 1 - Fraction(coupon.get("percent") or 0) / 100
    net -= min(net, sum((Fraction(coupon.get("fixed") or 0) for coupon in asked["coupons"]), Fraction(0)))
    final = oracle.round_fraction(net, minor_units(asked["currency"]))
    ours = {"discount": Decimal(asked["start"]) - final, "final": final}
    return {name: ours[name] for name in expected if name in ours}


def threshold_of_the_period(asked: Values, expected: Values) -> Values | None:
    if asked.get("op") != "threshold_invoices":
        return None
    worth, invoiced, invoices, every = ZERO, ZERO, [], Decimal(asked["threshold"])
    for batch in asked["batches"]:
        worth += Decimal(asked["unit"]) * Decimal(batch)
        if invoiced < worth // every * every:
            invoices.append(oracle.round_half_away(worth, 2) - invoiced)
            invoiced += invoices[-1]
    return {"invoices": invoices, "open": oracle.round_half_away(worth, 2) - invoiced}


def burned_as_they_stand(asked: Values, expected: Values) -> Values | None:
    if "cost_basis" not in asked["order"]:
        return None
    blocks = enumerate(asked["blocks"])
    by_priority = "priority" in asked["order"]

    def key(numbered: tuple[int, Values]) -> tuple[Any, ...]:
        at, block = numbered
        priority = block["priority"] if by_priority and block["priority"] is not None else 1000
        return priority, block["expires"] or "9999", at

    need, debits = Decimal(asked["need"]), {}
    for _, block in sorted(blocks, key=key):
        taken = min(need, Decimal(block["amount"]))
        need -= taken
        debits |= {block["id"]: taken} if taken else {}
    return {"debits": debits}


def prepaid_pays_no_tax(asked: Values, expected: Values) -> Values | None:
    nets = [
        Fraction(line) * (1 - Fraction(asked["line_percent_off"].get(str(at), 0)) / 100)
        for at, line in enumerate(asked["lines"])
    ]
    net = max(Fraction(0), sum(nets, Fraction(0)) - Fraction(asked["invoice_fixed_off"]))
    if Fraction(asked["credits"]) <= net:
        return None
    digits = minor_units(asked["currency"])
    tax = oracle.round_fraction(oracle_usage.half_away(net, digits) * Fraction(asked["tax"]) / 100, digits)
    return {"total": tax, "tax": tax}


def capacity_has_an_open_end(asked: Values, expected: Values) -> Values | None:
    used = {unit: [value] for unit, value in asked.get("usage", {}).items()} or asked.get("series", {})
    last = asked["tiers"][-1]["limits"]
    is_beyond = any(
        max(Decimal(value) for value in values) > Decimal(last[unit])
        for unit, values in used.items()
        if Decimal(last[unit]) >= 0
    )
    return REFUSED if is_beyond else None


def unmatched_is_refused(asked: Values, expected: Values) -> Values | None:
    if asked.get("op") != "matrix" or asked.get("default") is not None:
        return None
    return REFUSED if set(asked["usage"]) - set(asked["cells"]) else None


def seats_given_back(asked: Values, expected: Values) -> Values | None:
    fewer = Fraction(asked["to"]) - Fraction(asked["from"])
    if fewer >= 0:
        return None
    return {"amount": oracle.round_fraction(fewer * Fraction(asked["unit"]) * asked["num"] / asked["den"], 2)}


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        quantities_have_nine_places,
        balance_in_whole_minor_units,
        discounts_are_exact,
        threshold_of_the_period,
        burned_as_they_stand,
        prepaid_pays_no_tax,
        capacity_has_an_open_end,
        unmatched_is_refused,
        seats_given_back,
    )
}
