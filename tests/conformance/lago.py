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
from tests.conformance import ask
from tests.conformance.cases import NOT_OURS, Answer, Asked, Unsupported

SECOND = timedelta(seconds=1)
CENTS = Decimal(100)
# Figures of display: every case that has them has the amount too.
UNIT_AMOUNTS = ("unit_amount", "unit_amount_rounded_2", "displayed_per_unit")


def _tiers(rows: Sequence[Asked]) -> list[dict[str, Any]]:
    tiers = []
    for row in rows:
        row("from")
        tiers.append(ask.tier(row("to"), row("per_unit"), row("flat")))
    return tiers


def _quantity(asked: Asked) -> Decimal:
    """Return the units of a case: said, counted, or summed over its events."""
    if asked("units") is not None:
        return Decimal(str(asked("units")))
    kind = asked("aggregation", "sum")
    if "event_count" in asked:
        events = [ask.event(1, row=row) for row in range(int(asked("event_count", 0)))]
    else:
        events = _events(asked("events", []))
    (used,) = ask.usage(kind, events)
    return used.quantity


def _events(values: Sequence[object], start: int = 0) -> list[dict[str, Any]]:
    """Return events in the order of time; what is no quantity is refused and makes no event."""
    quantities = [ask.accepted_quantity(str(value)) for value in values]
    return [
        ask.event(quantity, ask.PERIOD[0] + (start + row) * SECOND, start + row)
        for row, quantity in enumerate(quantities)
        if quantity is not None
    ]


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
    return _amounts(ask.worth(ask.price(type="unit", unit_price=str(asked("unit_price"))), _quantity(asked)))


def graduated(asked: Asked) -> dict[str, Any]:
    rated = ask.worth(ask.price(type="graduated", tiers=_tiers(asked.rows("tiers"))), _quantity(asked))
    numbers = sorted({charge.tier for charge in rated.charges})
    return {**_amounts(rated), "tiers_used": [_tier_row(rated.charges, number) for number in numbers]}


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
    return _amounts(ask.worth(ask.price(type="volume", tiers=_tiers(asked.rows("tiers"))), _quantity(asked)))


def package(asked: Asked) -> dict[str, Any]:
    size, amount = str(asked("package_size")), str(asked("package_price"))
    terms = ask.price(type="package", package_size=size, package_price=amount)
    return _amounts(ask.worth(terms, _quantity(asked)))


def latest(asked: Asked) -> dict[str, Any]:
    """The last event in the order of time; below zero it is rated as zero."""
    (used,) = ask.usage("last", _events(asked("last_two_events") or asked("events", [])))
    return _rated_units(used)


def maximum(asked: Asked) -> dict[str, Any]:
    (used,) = ask.usage("max", _events(asked("events", [])))
    return _rated_units(used)


def total(asked: Asked) -> dict[str, Any]:
    (used,) = ask.usage("sum", _events(asked("events_in_period", [])))
    return _rated_units(used)


def _rated_units(used: ask.Used) -> dict[str, Any]:
    # A quantity below zero is rated as zero: that is a rule of rating, so the engine is asked for it.
    ((_, components),) = ask.cuts(ask.price(type="unit", unit_price="1"), [ask.Cut(used.quantity)])
    units = sum((component.quantity for component in components), Decimal(0))
    return {"units": units, "event_count": used.event_count}


def unique_count(asked: Asked) -> dict[str, Any]:
    """Distinct keys of the period. Keys of the time before count for nothing unless the meter carries them over."""
    start, times = ask.PERIOD[0], []
    keys = [(start - SECOND, key) for key in asked("keys_before_period", [])]
    keys += [(start, key) for key in asked("added_keys", [])]
    for given in asked.rows("events"):
        if given("op", "add") != "add":
            raise Unsupported("op remove")
        times.append(datetime.fromisoformat(given("at")).replace(tzinfo=UTC))
        keys.append((times[-1], given("key")))
    events = [ask.event(1, at, row, unit=key) for row, (at, key) in enumerate(keys)]
    period = (min(times), max(times) + SECOND) if times else ask.PERIOD
    (used,) = ask.usage("unique_count", events, period=period, unique_attribute="unit")
    return {"units": used.quantity, "event_count": used.event_count}


def anniversary(asked: Asked) -> dict[str, Any]:
    every = {"weekly": "week", "monthly": "month", "quarterly": "quarter", "yearly": "year"}.get(asked("interval"))
    if every is None:
        raise Unsupported(f"interval {asked('interval')}")
    cycle = BillingCycle(every, datetime.fromisoformat(asked("anchor")), asked("tz", "UTC"))  # type: ignore[arg-type]
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


def dedupe(asked: Asked) -> dict[str, Any]:
    """Events with a transaction id, in order of arrival. The first of each id counts, whenever it says it happened."""
    times = {at: ask.PERIOD[0] + number * SECOND for number, at in enumerate(_labels(asked("events")))}
    events = [
        ask.event(given["value"], times[given["at"]], row, key=given["tx"]) for row, given in enumerate(asked("events"))
    ]
    ((summed,), (counted,)) = ask.usage("sum", events), ask.usage("count", events)
    return {"sum": summed.quantity, "count": counted.quantity}


def _labels(events: Sequence[dict[str, Any]]) -> list[str]:
    return sorted({given["at"] for given in events})


def dedupe_batch(asked: Asked) -> dict[str, Any]:
    """How many events a batch adds to what is stored. A duplicate is success, and never a reason to refuse the rest."""
    stored, batch = asked("stored", []), asked("tx")
    if batch is None:
        asked("max")
        batch = [str(number) for number in range(int(asked("count")))]
    before = [ask.event(1, row=row, key=key) for row, key in enumerate(stored)]
    after = [ask.event(1, row=len(stored) + row, key=key) for row, key in enumerate(batch)]
    ((without,), (with_batch,)) = ask.usage("count", before), ask.usage("count", before + after)
    return {"stored_new": with_batch.quantity - without.quantity, "error_indexes": []}


def subscription_share(asked: Asked) -> dict[str, Any]:
    """A share of a flat amount in whole days of UTC, which are all alike."""
    if "trial_days" in asked:
        raise Unsupported("trial_days")
    for name in ("anchor", "started", "terminated", "from", "to"):
        asked(name)  # Where the days were counted from; the count is given.
    day = 86_400_000_000
    share = share_of(
        Decimal(asked("plan_cents")).scaleb(-2), int(asked("days_billed")) * day, int(asked("days_full")) * day
    )
    return {"fee_cents": round_amount(share, minor_units("USD")) * CENTS}


ANSWERS: dict[str, Answer] = {
    "charge_model.standard": standard,
    "charge_model.graduated": graduated,
    "charge_model.graduated.tier": graduated_tier,
    "charge_model.volume": volume,
    "charge_model.package": package,
    "aggregation.latest": latest,
    "aggregation.max": maximum,
    "aggregation.sum": total,
    "aggregation.unique_count": unique_count,
    "dates.period.anniversary": anniversary,
    "dates.period.monthly": monthly,
    "dedupe": dedupe,
    "dedupe.batch": dedupe_batch,
    "proration.subscription": subscription_share,
}
