"""The part of the reader of `lago.jsonl` that asks for tiers over units that are held, each for its share of the days.

There every event says its full change and its prorated one: the share of the days that are left of the period, which
tells on which day the event was. Days are dates of UTC; the last one is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from rating.rate import RatedQuantity
from tests.conformance import ask
from tests.conformance.cases import NOT_OURS, Answer, Asked, Unsupported

CENTS = Decimal(100)
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
START = ask.PERIOD[0]
LEVEL = {"aggregation": "sum", "carry": "recurring", "prorate": "day", "negative_allowed": True}
SWITCHES = {"held_flats": "peak"}
LONGEST = 366
# Prorated changes were rounded to four places or more when they were written down.
WRITTEN_TO = Fraction(1, 20_000)
Service = tuple[datetime, datetime]


def midnight(text: str) -> datetime:
    return datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)


def tiers_of(asked: Asked) -> list[dict[str, Any]]:
    tiers = []
    for row in asked.rows("tiers"):
        row("from")
        tiers.append(ask.tier(row("to"), row("per_unit"), row("flat")))
    return tiers


def rated(kind: str, tiers: Sequence[Any], events: Sequence[Any], service: Service, full: Service) -> RatedQuantity:
    terms = ask.price(type=kind, tiers=list(tiers), tiers_by="held")
    return ask.rated(terms, LEVEL, events, service, full, switches=SWITCHES)


def days_of(changes: Sequence[tuple[Decimal, Decimal]]) -> tuple[int, list[int]]:
    """Return the shortest period in which each share of a change is a number of whole days, and these numbers."""
    for days in range(1, LONGEST + 1):
        left = [round(Fraction(part) / Fraction(change) * days) for change, part in changes]
        within = all(
            abs(Fraction(whole, days) - Fraction(part) / Fraction(change)) <= WRITTEN_TO
            for (change, part), whole in zip(changes, left, strict=True)
        )
        if within and all(0 < whole <= days for whole in left):
            return days, left
    raise Unsupported("shares of no period of days")


def in_shares(asked: Asked) -> dict[str, Any]:
    rows = [(Decimal(row["full"]), Decimal(row["prorated"])) for row in asked("events_in_order", [])]
    days, left = days_of(rows)
    full = START, START + days * DAY
    events = [
        ask.event(change, full[1] - whole * DAY, at)
        for at, ((change, _), whole) in enumerate(zip(rows, left, strict=True))
    ]
    amount = rated("graduated", tiers_of(asked), events, full, full).exact_amount
    return {"amount_rounded_2": ask.rounded(amount, "USD")}


def graduated(asked: Asked) -> dict[str, Any]:
    is_dated = any(name in asked for name in ("period", "terminated_on", "later_event"))
    return in_time(asked) if is_dated else in_shares(asked)


def in_time(asked: Asked) -> dict[str, Any]:
    """Events with their dates: what the period costs before all of them, and after each."""
    asked("recurring"), asked("prorated")  # All of them are.
    if "later_event" in asked:
        return over_two_periods(asked)
    if "terminated_on" in asked:
        last = midnight(asked("terminated_on")) + DAY
        first = last.replace(day=1) if last.day > 1 else (last - DAY).replace(day=1)
        full = first, first + int(asked("days_in_full_period")) * DAY
    else:
        first, last = midnight(asked("period")[0]), midnight(asked("period")[1]) + DAY
        full = last - int(asked("days")) * DAY, last
    carried = Decimal(str(asked("carried_units", 0)))
    events = [ask.event(carried, full[0] - DAY, -1)] if carried else []
    dated = [(midnight(row["date"]), Decimal(row["delta"])) for row in asked("events_in_order", [])]
    events += [ask.event(delta, at, row) for row, (at, delta) in enumerate(dated)]
    before, whole, tiers = len(events) - len(dated), (first, full[1]), tiers_of(asked)
    steps = [rated("graduated", tiers, events[:count], whole, full) for count in range(before, len(events) + 1)]
    cents = [step.amount * CENTS for step in steps]
    levels = [
        ask.usage("sum", events[:count], period=full, carry="recurring")[0].quantity
        for count in range(before, len(events) + 1)
    ]
    ended = rated("graduated", tiers, events, (first, last), full)
    return {
        "amount_cents_before_any_event": cents[0], "amount_cents_before_event": cents[0],
        "usage_before_event_cents": cents[0], "cumulative_amount_cents": cents[1:], "amount_cents_after_event": cents[-1],
        "usage_after_event_cents": cents[-1], "cumulative_units": levels[1:], "units_after": levels[-1],
        "invoice_cents": cents[-1], "termination_invoice_cents": ended.amount * CENTS,
    }  # fmt: skip


def over_two_periods(asked: Asked) -> dict[str, Any]:
    """What history left is held in every month; a later event changes the second one."""
    start = midnight(asked("subscription_start"))
    later = asked("later_event")
    months = [start, (start.replace(day=1) + 31 * DAY).replace(day=1)]
    months.append((months[1] + 31 * DAY).replace(day=1))
    if not months[1] <= midnight(later["date"]) < months[2]:
        raise Unsupported("later_event")
    events = [
        ask.event(value, start - DAY, -row) for row, value in enumerate(asked("events_before_start", []), start=1)
    ]
    changed = [*events, ask.event(later["delta"], midnight(later["date"]))]
    first, second = (months[0], months[1]), (months[1], months[2])
    full, tiers = (start.replace(day=1), months[1]), tiers_of(asked)
    named = {12: "december", 1: "january"}
    if (first[0].month, second[0].month) != tuple(named):
        raise Unsupported("subscription_start")
    return {
        "december_invoice_cents": rated("graduated", tiers, events, first, full).amount * CENTS,
        "january_before_event_cents": rated("graduated", tiers, events, second, second).amount * CENTS,
        "january_after_event_cents": rated("graduated", tiers, changed, second, second).amount * CENTS,
    }


def volume(asked: Asked) -> dict[str, Any]:
    """So many units are held at the end, and so many are they in their shares of two days: some come on the second."""
    prorated, held = Decimal(str(asked("units"))), Decimal(str(asked("full_units")))
    asked("prorated")
    later = 2 * (held - prorated)
    events = [ask.event(held - later, START, 0), ask.event(later, START + DAY, 1)]
    full = START, START + 2 * DAY
    found = rated("volume", tiers_of(asked), events, full, full)
    shown = ("unit_amount", "unit_amount_rounded_2", "displayed_per_unit")
    cents = found.amount * CENTS
    return {
        "units": found.quantity,
        "amount": found.exact_amount,
        "amount_cents": cents,
        **dict.fromkeys(shown, NOT_OURS),
    }


ANSWERS: dict[str, Answer] = {"charge_model.prorated_graduated": graduated}
