"""The reader of `lago.jsonl`.

Tiers there have `from` and `to`; bounds with a gap of one (0 to 10, 11 to 20) and adjacent ones are both read as
up_to 10, 20. Ends of periods are the last second, 23:59:59; ours are open, one second later. A `unit_amount` is for
display only (amount / quantity) and is no figure of ours: it is not compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from metering.periods import CALENDAR_ANCHOR, BillingCycle, Period
from rating.iso4217 import minor_units
from rating.proration import share_of
from rating.rate import RatedCharge, RatedQuantity
from rating.rounding import round_amount
from tests.conformance import ask, lago_books, lago_levels, lago_usage
from tests.conformance.cases import NOT_OURS, Answer, Asked, Unsupported
from tests.conformance.lago_usage import quantity

SECOND = timedelta(seconds=1)
CENTS = Decimal(100)
INTERVALS = {
    "weekly": ("week", 1),
    "monthly": ("month", 1),
    "quarterly": ("quarter", 1),
    "semiannual": ("month", 6),
    "yearly": ("year", 1),
}
# Figures of display: every case that has them has the amount too.
UNIT_AMOUNTS = ("unit_amount", "unit_amount_rounded_2", "displayed_per_unit")


def _tiers(rows: Sequence[Asked]) -> list[dict[str, Any]]:
    tiers = []
    for row in rows:
        row("from")
        tiers.append(ask.tier(row("to"), row("per_unit"), row("flat")))
    return tiers


def _amounts(rated: RatedQuantity) -> dict[str, Any]:
    return {
        "units": rated.quantity,
        "amount": rated.exact_amount,
        "amount_cents": rated.amount * CENTS,
        **dict.fromkeys(UNIT_AMOUNTS, NOT_OURS),
    }


def _tier_row(charges: Sequence[RatedCharge], number: int) -> dict[str, Any]:
    """Return the units of one tier, their amount, and the amount with the tier's flat amount."""
    inside = [charge for charge in charges if charge.tier == number]
    units = [charge for charge in inside if charge.part == "unit"]
    amount = sum((charge.exact_amount for charge in units), Decimal(0))
    return {
        "units": sum((charge.quantity for charge in units), Decimal(0)),
        "units_amount": amount,
        "with_flat": amount + sum((charge.exact_amount for charge in inside if charge.part == "flat"), Decimal(0)),
    }


def standard(asked: Asked) -> dict[str, Any]:
    asked("full_units")  # Only the displayed unit amount divides by it.
    return _amounts(ask.worth(ask.price(type="unit", unit_price=str(asked("unit_price"))), quantity(asked)))


def graduated(asked: Asked) -> dict[str, Any]:
    rated = ask.worth(ask.price(type="graduated", tiers=_tiers(asked.rows("tiers"))), quantity(asked))
    numbers = sorted({charge.tier for charge in rated.charges})
    # Without an event a prorated quantity is the same nothing as any other.
    if not rated.quantity:
        asked("recurring"), asked("prorated")
    total = lago_books.with_tax(rated.amount, asked("tax_rate_pct", "0"))
    return {
        **_amounts(rated),
        "total_with_tax_cents": total,
        "tiers_used": [_tier_row(rated.charges, number) for number in numbers],
    }


def graduated_tier(asked: Asked) -> dict[str, Any]:
    """One tier alone: the tiers below it are one free tier up to where it begins."""
    tier, style = asked.inner("tier"), asked("bounds_style", "adjacent")
    if style not in {"adjacent", "gap_of_one"}:
        raise Unsupported("bounds_style")
    start = Decimal(str(tier("from", 0)))
    lower = start - (1 if style == "gap_of_one" and start else 0)
    tiers = [ask.tier(lower, "0", "0")] if lower else []
    tiers.append(ask.tier(tier("to"), tier("per_unit"), tier("flat")))
    if tier("to") is not None:
        tiers.append(ask.tier(None, "0", "0"))
    rated = ask.worth(ask.price(type="graduated", tiers=tiers), asked("total_units"))
    row = _tier_row(rated.charges, 2 if lower else 1)
    return {**row, "units_in_tier": row["units"]}


def volume(asked: Asked) -> dict[str, Any]:
    if asked("prorated") and "full_units" in asked:
        return lago_levels.volume(asked)
    return _amounts(ask.worth(ask.price(type="volume", tiers=_tiers(asked.rows("tiers"))), quantity(asked)))


def package(asked: Asked) -> dict[str, Any]:
    size, amount = str(asked("package_size")), str(asked("package_price"))
    free = {"included": str(asked("free_units"))} if asked("free_units") else {}
    terms = ask.price(type="package", package_size=size, package_price=amount, **free)
    return _amounts(ask.worth(terms, quantity(asked)))


def anniversary(asked: Asked) -> dict[str, Any]:
    every, interval = INTERVALS[asked("interval")]
    cycle = BillingCycle(every, datetime.fromisoformat(asked("anchor")), asked("tz", "UTC"), interval)  # type: ignore[arg-type]
    return _ends(cycle.period_at(_midnight(asked("at"))))


def monthly(asked: Asked) -> dict[str, Any]:
    """The period that a billing date bills: in arrears the one before it, in advance the one that begins on it."""
    billing = asked("billing")
    if billing not in {"calendar", "anniversary"}:
        raise Unsupported(f"billing {billing}")
    if asked("tz", "UTC") != "UTC":
        raise Unsupported("tz")
    anchor = CALENDAR_ANCHOR if billing == "calendar" else datetime.fromisoformat(asked("anchor"))
    billed_at = _midnight(asked("billed_at"))
    return _ends(BillingCycle("month", anchor).period_at(billed_at if asked("pay_in_advance") else billed_at - SECOND))


def _midnight(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _ends(period: Period) -> dict[str, Any]:
    start, last = (edge.isoformat().replace("+00:00", "Z") for edge in (period.start, period.end - SECOND))
    return {"from": start, "to": last}


def subscription_share(asked: Asked) -> dict[str, Any]:
    """A share of a flat amount in whole days of UTC, which are all alike."""
    if "trial_days" in asked:
        return lago_books.trial(asked)
    for name in ("anchor", "started", "terminated", "from", "to"):
        asked(name)  # Where the days were counted from; the count is given.
    day = 86_400_000_000
    share = share_of(
        Decimal(asked("plan_cents")).scaleb(-2), int(asked("days_billed")) * day, int(asked("days_full")) * day
    )
    fee = round_amount(share, minor_units("USD"))
    total = lago_books.with_tax(fee, asked("tax_rate_pct", "0"))
    return {"fee_cents": fee * CENTS, "total_cents": total}


ANSWERS: dict[str, Answer] = {
    **lago_usage.ANSWERS,
    "charge_model.standard": standard,
    "charge_model.graduated": graduated,
    "charge_model.graduated.tier": graduated_tier,
    "charge_model.volume": volume,
    "charge_model.package": package,
    "dates.period.anniversary": anniversary,
    "dates.period.monthly": monthly,
    "proration.subscription": subscription_share,
}
