"""The part of the reader of `lago.jsonl` that asks for percentages, discounts, minimums, thresholds and taxes.

Amounts there are cents or exact money; ours are money. Of several events a price is asked with all of them so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from metering.catalog import Meter
from metering.periods import Period
from rating.adjust import Discount
from rating.preview import rate_events
from rating.proration import share_of
from rating.rate import RatedQuantity
from rating.thresholds import thresholds_passed
from tests.conformance import ask, lago_books
from tests.conformance.cases import NOT_OURS, Answer, Asked
from tests.conformance.openmeter_pricing import END, Piece, pieces
from tests.rated import engine_lines, events_table

CENTS = Decimal(100)
ZERO = Decimal(0)
DAY_US = 86_400_000_000
METER = Meter.model_validate({"name": "units", "aggregation": "sum"})


def _sum(charges: Any, part: str) -> Decimal:
    return sum((one.exact_amount for one in charges if one.part == part), ZERO)


def graduated_percentage(asked: Asked) -> dict[str, Any]:
    terms = ask.price(type="graduated_percentage", tiers=_tiers(asked.rows("tiers")))
    if "events" in asked:
        events = [ask.event(value, ask.PERIOD[0], row) for row, value in enumerate(asked("events"))]
        price = ask._PRICES.validate_python(terms)
        rated = rate_events(price, METER, events_table(events), period=Period(*ask.PERIOD))[""]
    else:
        rated = ask.worth(terms, asked("units"))
    return {"amount": rated.exact_amount, "amount_cents": rated.amount * CENTS, "unit_amount": NOT_OURS}


def _tiers(rows: Sequence[Asked]) -> list[dict[str, Any]]:
    return [_tier(row) for row in rows]


def _tier(row: Asked) -> dict[str, Any]:
    row("from")
    said = {"up_to": row("to"), "percent": row("rate"), "flat_amount": row("flat")}
    return {name: str(value) for name, value in said.items() if value is not None}


def graduated_percentage_tier(asked: Asked) -> dict[str, Any]:
    """One tier alone: the tiers before it cost nothing and the one after it neither."""
    row = asked.inner("tier")
    lower = int(row("from")) - 1
    tiers = [{"up_to": str(lower), "percent": "0"}] if lower > 0 else []
    tiers += [_tier(row), {"percent": "0"}]
    inside = [
        one
        for one in ask.worth(ask.price(type="graduated_percentage", tiers=tiers), asked("total_units")).charges
        if one.tier == len(tiers) - 1
    ]
    amount = _sum(inside, "unit")
    units = sum((one.quantity for one in inside if one.part == "unit"), ZERO)
    return {"units_in_tier": units, "units_amount": amount, "with_flat": amount + _sum(inside, "flat")}


def _percentage(asked: Asked, values: Sequence[str]) -> RatedQuantity:
    terms = ask.price(type="percentage", percent=str(asked("rate_pct")))
    for ours, theirs in (
        ("fixed_amount", "fixed_per_event"), ("free_events", "free_events"), ("free_units", "free_units_total"),
        ("event_minimum", "per_event_min"), ("event_maximum", "per_event_max"),
    ):  # fmt: skip
        value = asked(theirs)
        if value is not None and Decimal(value):
            terms[ours] = str(value)
    price = ask._PRICES.validate_python(terms)
    events = [ask.event(value, ask.PERIOD[0], row) for row, value in enumerate(values)]
    return rate_events(price, METER, events_table(events), period=Period(*ask.PERIOD))[""]


def percentage(asked: Asked) -> dict[str, Any]:
    """All events, or, where the case says `events_in_order`, what the fee was after each of them."""
    if "events_in_order" in asked:
        values = asked("events_in_order")
        fees = [_percentage(asked, values[:count]).amount for count in range(1, len(values) + 1)]
        totals = [lago_books.with_tax(fee, asked("tax_rate_pct", "0")) for fee in fees]
        cents = [fee * CENTS for fee in fees]
        return {"cumulative_amount_cents": cents, "cumulative_total_with_tax_cents": totals}
    rated = _percentage(asked, asked("events"))
    shown = ("unit_amount", "free_units", "free_events")
    return {"amount": rated.exact_amount, "fixed_total": _sum(rated.charges, "fixed"), **dict.fromkeys(shown, NOT_OURS)}


def coupon(asked: Asked) -> dict[str, Any]:
    if "coupons_in_order" in asked:
        return lago_books.coupons_in_order(asked)
    fees = [Decimal(fee) for fee in asked("fees_cents", [])] or [Decimal(asked("base_cents"))]
    said = {"percent": asked("coupon_pct"), "amount": asked("coupon_cents")}
    terms = {name: str(value) for name, value in said.items() if value is not None}
    if "amount" in terms:
        terms["amount"] = str(Decimal(terms["amount"]) / CENTS)
    Discount.model_validate({"id": "coupon", **terms})
    prices = [{"id": f"fee-{at}", "type": "flat", "amount": str(fee / CENTS)} for at, fee in enumerate(fees)]
    sold = ask.catalog(prices, plan={"discounts": [{"id": "coupon", **terms}]})
    lines = sorted(engine_lines(sold, [], "2026-01").items())
    amounts = [line.amount * CENTS for _, line in lines]
    taken = [fee - amount for fee, amount in zip(fees, amounts, strict=True)]
    return {"credit_cents": sum(taken, ZERO), "per_fee": taken}


def _minimum(amount: Decimal, used: Decimal, share: Decimal | None = None) -> Piece:
    """Return what one cut at the end books under a minimum, of which a share is owed."""
    owed = amount if share is None else share
    terms = ask.price(type="unit", unit_price="1")
    sold = ask.catalog([terms], plan={"minimums": [{"id": "minimum", "amount": f"{owed:f}", "prorate": "false"}]})
    return pieces(sold, [(used, END)])[0]


def minimum_commitment(asked: Asked) -> dict[str, Any]:
    """What is owed of a commitment for a number of days, when nothing else was billed."""
    if "terminated_at" in asked:
        return lago_books.minimum_of_a_change(asked)
    share = _share(Decimal(asked("commitment_cents")) / CENTS, asked, "days_active")
    return {"commitment_due_cents": _minimum(ZERO, ZERO, share).top_up * CENTS}


def _share(amount: Decimal, asked: Asked, days: str) -> Decimal:
    exact = share_of(amount, int(asked(days)) * DAY_US, int(asked("days_full")) * DAY_US)
    return exact.quantize(Decimal("1e-12"))


def spending_minimum(asked: Asked) -> dict[str, Any]:
    if "minimum_pricing_unit_cents" in asked:
        return lago_books.minimum_in_pricing_units(asked)
    if "plan_cents" in asked:
        return lago_books.minimum_at_the_end(asked)
    share = _share(Decimal(asked("minimum_cents")) / CENTS, asked, "days_billed")
    return {"true_up_cents": _minimum(ZERO, Decimal(asked("used_cents")) / CENTS, share).top_up * CENTS}


def thresholds(asked: Asked) -> dict[str, Any]:
    """The thresholds passed since what was invoiced; a recurrence is named there by its distance, not by its place."""
    fixed = tuple(Decimal(one) for one in asked("fixed_thresholds", []))
    every = None if asked("recurring_threshold") is None else Decimal(asked("recurring_threshold"))
    before = Decimal(asked("historical", 0)) + Decimal(asked("already_progressively_billed", 0))
    billed = Decimal(asked("already_progressively_billed", 0))
    found = []
    for invoiced, current in asked("rows_invoiced_current"):
        since = Decimal(invoiced) + before
        worth = since + max(Decimal(current) - billed, ZERO)
        passed = thresholds_passed(fixed, every, since, worth)
        found.append([one if one in fixed else every for one in passed])
    return {"passed": found}


ANSWERS: dict[str, Answer] = {
    "charge_model.graduated_percentage": graduated_percentage,
    "charge_model.graduated_percentage.tier": graduated_percentage_tier,
    "charge_model.percentage": percentage,
    "charge_model.percentage.per_event_limits": percentage,
    "coupon": coupon,
    "minimum_commitment": minimum_commitment,
    "spending_minimum": spending_minimum,
    "progressive_billing.thresholds": thresholds,
}
