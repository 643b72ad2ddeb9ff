"""The oracle of named switches: what a plan asks for, as price models, section 10 lists it, and what a price is under that.

What enters: a plan and a price as their catalog entries. What leaves: the answer of each switch; the price with these answers
written into it (`read`), so that the other files of the oracle look at one thing. It shares no code with the packages.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from tests import oracle

Row = dict[str, Any]

STRICT = {
    "tier_edge": "upper", "tier_gap": "continuous", "tiers_past_end": "refused", "flat_at_zero": "due", "part_package": "up",
    "round_at": "line", "proration_basis": "instants", "discount_order": "percent_first", "min_max_order": "refused",
    "residue": "largest_remainder", "allowance_edge": "free", "allowance_pair": "first_to_end", "minimum_share": "instants",
    "held_flats": "by_day",
}  # fmt: skip
# What dialects answer differently, of the switches above.
DIALECTS: dict[str, Row] = {
    "lago": {
        "round_at": "event", "proration_basis": "local_days", "residue": "five_decimals", "allowance_edge": "fixed_due",
        "allowance_pair": "units_only", "minimum_share": "whole_days", "held_flats": "peak",
    },
    "openmeter": {"round_at": "component"},
    "orb": {"discount_order": "amount_first", "min_max_order": "minimum_first"},
    "killbill": {"tiers_past_end": "extend", "part_package": "up_per_tier", "proration_basis": "local_days"},
    "flexprice": {
        "tiers_past_end": "lose", "proration_basis": "days_inclusive", "discount_order": "listed",
    },
    "meteroid": {
        "tier_edge": "lower", "tier_gap": "lost", "round_at": "unit_price", "proration_basis": "local_days",
        "residue": "largest_line",
    },
    "zuora": {"tiers_past_end": "overage_price"},
}  # fmt: skip


def answer(plan: Row, switch: str) -> str:
    said = (plan.get("switches") or {}).get(switch)
    return str(said or DIALECTS.get(plan.get("dialect", "strict"), {}).get(switch, STRICT[switch]))


def digits_of(plan: Row) -> int:
    return oracle.MINOR_DIGITS.get(plan.get("currency", "USD"), 2)


def component(plan: Row) -> Callable[[Fraction], Fraction]:
    """Return what becomes of one component of a line: rounded by itself, or left exact until the line is."""
    if answer(plan, "round_at") != "component":
        return lambda amount: amount
    return lambda amount: Fraction(oracle.round_fraction(amount, digits_of(plan)))


def read(price: Row, plan: Row) -> Row:
    """Return a price as the plan reads it; `read` holds the answers that are looked at while it is priced."""
    made = {**price, "read": {name: answer(plan, name) for name in STRICT} | {"component": component(plan)}}
    if price["type"] == "package" and answer(plan, "part_package") == "down":
        made["part"] = "down"
    limits = [price.get(name) for name in ("event_minimum", "event_maximum")]
    if answer(plan, "allowance_pair") == "units_only" and "free_units" in price and limits != [None, None]:
        made.pop("free_events", None)
    if answer(plan, "round_at") == "unit_price":
        made = rounded_units(made, digits_of(plan))
    if made.get("tiers") and made["type"] != "capacity" and "up_to" in made["tiers"][-1]:
        last = dict(made["tiers"][-1])
        ends = last.pop("up_to")
        made["tiers"] = [*made["tiers"][:-1], last]
        if answer(plan, "tiers_past_end") == "lose":
            made["ends"] = ends
    return made


def rounded_units(price: Row, digits: int) -> Row:
    """Round every price of a unit before anything is multiplied with it."""
    made = dict(price)
    for name in ("unit_price", "default_unit_price"):
        if name in made:
            made[name] = str(oracle.round_fraction(Fraction(str(made[name])), digits))
    for name in ("tiers", "cells"):
        if name in made:
            made[name] = [rounded_units(one, digits) for one in made[name]]
    return made
