"""The rules of `questioned.yaml` for `lago.jsonl`: days, coupons, early fees, prepaid money; by the oracle, or in Fractions."""

from __future__ import annotations

import itertools
from decimal import Decimal
from fractions import Fraction
from typing import Any

from rating.iso4217 import minor_units
from tests import oracle, oracle_adjust
from tests.conformance.cases import Rule

Values = dict[str, Any]
REFUSED = {"error": "refused"}
CENTS = Decimal(100)


def an_end_at_midnight_is_open(asked: Values, expected: Values) -> Values | None:
    zone = asked.get("timezone", "UTC")
    start, end = (oracle.local(oracle.moment(asked[name] + "Z", "UTC"), zone) for name in ("from_utc", "to_utc"))
    is_midnight = (end.hour, end.minute, end.second) == (0, 0, 0)
    return {"days": end.toordinal() - start.toordinal()} if is_midnight else None


def shares_in_minor_units(asked: Values, expected: Values) -> Values | None:
    if "coupons_in_order" not in asked:
        return None
    lines = [oracle_adjust.Net(str(at), (), [], Decimal(1), _money(fee)) for at, fee in enumerate(asked["fees_cents"])]
    period = oracle.Period(*(oracle.moment("2026-01-01", "UTC"),) * 4)
    for coupon in asked["coupons_in_order"]:
        covered = range(len(lines)) if coupon["fees"] == "all" else coupon["fees"]
        span = oracle_adjust.Span(
            {"id": "s"}, {"currency": "USD", "prices": [{"id": str(at)} for at in covered]}, period
        )
        span.lines = [lines[at] for at in covered]
        oracle_adjust.take([({"amount": str(Decimal(str(coupon["cents"])) / CENTS)}, span)])
    nets, rates = [line.exact * 100 for line in lines], [Fraction(rate) / 100 for rate in asked["tax_pct"]]
    fees = [Fraction(fee) for fee in asked["fees_cents"]]
    taxes = [
        oracle.round_fraction(sum(net * rate for net, rate in zip(nets, rates, strict=True) if rate == one), 0)
        for one in set(rates)
    ]
    net, tax = sum(nets), sum(taxes)
    return {
        "coupon_per_fee": [int(fee - left) for fee, left in zip(fees, nets, strict=True)],
        "tax_per_fee_cents": [oracle.round_fraction(net * rate, 0) for net, rate in zip(nets, rates, strict=True)],
        "fees_total_cents": int(sum(fees)), "coupons_cents": int(sum(fees) - net), "net_cents": int(net),
        "tax_cents": tax, "total_cents": int(net) + tax,
    }  # fmt: skip


def _money(cents: object) -> Fraction:
    return Fraction(str(cents)) / 100


def falling_use_gives_back(asked: Values, expected: Values) -> Values | None:
    rows = asked.get("events_in_order") or []
    by_key = any(isinstance(row, dict) for row in rows)
    if "unit_price" not in asked or not (by_key or any(Decimal(row) < 0 for row in rows)):
        return None
    held: set[str] = set()
    levels = [Fraction(0)]
    total = Fraction(0)
    for row in rows:
        if by_key:
            held = held - {row["key"]} if row.get("op") == "remove" else held | {row["key"]}
            total = Fraction(len(held))
        else:
            total += Fraction(row)
        levels.append(max(total, Fraction(0)))
    price = Fraction(asked["unit_price"])
    paper = [oracle.round_fraction(price * level, 2) for level in levels]
    pairs = list(itertools.pairwise(levels))
    ours = {
        "fee_cents": [(after - before) * CENTS for before, after in itertools.pairwise(paper)],
        "fee_units": [Decimal((after - before).numerator) / (after - before).denominator for before, after in pairs],
    }
    return {name: ours[name] for name in expected if name in ours}


def one_invoice_one_tax(asked: Values, expected: Values) -> Values | None:
    if "plan_cents" not in asked:
        return None
    days, full = Fraction(asked["days_billed"]), Fraction(asked["days_full"])
    minimum = oracle.round_fraction(Fraction(asked["minimum_cents"]) * days / full, 0)
    fees = max(minimum, Decimal(asked["used_cents"]))
    back = Fraction(asked["plan_cents"]) - Fraction(
        oracle.round_fraction(Fraction(asked["plan_cents"]) * days / full, 0)
    )
    net = Fraction(fees) - back
    tax = oracle.round_fraction(net * Fraction(asked["tax_rate_pct"]) / 100, 0)
    return {**expected, "due_cents": Decimal(int(net)) + tax}


def a_balance_has_no_part_of_a_cent(asked: Values, expected: Values) -> Values | None:
    granted = Fraction(asked["paid_credits"]) * Fraction(asked.get("credit_value", "1"))
    return REFUSED if (granted * 10 ** minor_units(asked["currency"])).denominator > 1 else None


def balances_pay_no_tax(asked: Values, expected: Values) -> Values | None:
    if not any(fee.get("tax_precise") for fee in asked["fees"]):
        return None
    net = sum(Decimal(str(fee["cents"])) for fee in asked["fees"])
    return {"used_cents": min(net, Decimal(asked["wallet_balance"]))}


def use_is_in_the_order_of_time(asked: Values, expected: Values) -> Values | None:
    rows = [
        (Fraction(row["full"]), Fraction(row["prorated"])) for row in asked.get("events_in_order", []) if "full" in row
    ]
    # The share of a change is the share of the days that were left: a larger one is of an earlier day.
    in_time = sorted(rows, key=lambda row: -round(row[1] / row[0], 4))
    if [round(part / change, 4) for change, part in in_time] == [round(part / change, 4) for change, part in rows]:
        return None
    tiers, lower = [], Fraction(0)
    for tier in asked["tiers"]:
        upper = None if tier["to"] is None else Fraction(str(tier["to"]))
        tiers.append((lower, upper, Fraction(tier["per_unit"]), Fraction(tier["flat"])))
        lower = upper if upper is not None else lower

    def of_units(level: Fraction) -> Fraction:
        inside = (
            max(Fraction(0), (level if up is None else min(level, up)) - low) * unit for low, up, unit, _ in tiers
        )
        return sum(inside, Fraction(0))

    level = peak = amount = Fraction(0)
    for change, part in in_time:
        amount += (of_units(max(level + change, Fraction(0))) - of_units(max(level, Fraction(0)))) * part / change
        level += change
        peak = max(peak, level)
    flats = sum(flat for at, (low, _, _, flat) in enumerate(tiers) if at == 0 or peak > low)
    return {"amount_rounded_2": oracle.round_fraction(amount + flats, 2)}


def a_level_is_that_of_its_events(asked: Values, expected: Values) -> Values | None:
    if "cached_peak" not in asked or "events_in_period" not in asked:
        return None
    return {"units": sum(map(Decimal, (*asked["events_before_period"], *asked["events_in_period"])), Decimal(0))}


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        an_end_at_midnight_is_open,
        shares_in_minor_units,
        falling_use_gives_back,
        one_invoice_one_tax,
        a_balance_has_no_part_of_a_cent,
        balances_pay_no_tax,
        use_is_in_the_order_of_time,
        a_level_is_that_of_its_events,
    )
}
