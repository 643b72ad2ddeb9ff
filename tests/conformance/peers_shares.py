"""Shares of billing periods in `peers.jsonl`: days, changes of plan, seats, and what is given back.

A case that says "num of den days" is put into a billing period of so many days in UTC, where all days are alike.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

from metering.periods import Period, add_months, wall_to_instant
from rating.proration import share_between
from rating.rounding import round_amount, round_fraction
from tests.conformance import ask, peers_books
from tests.conformance.cases import Answer, Asked, Unsupported
from tests.conformance.peers_books import BookedLine, Books, flat, sold

ZERO = Decimal(0)
DAY = timedelta(days=1)
# A billing period of so many days: its length in words, and when it begins.
BEGINS = {
    7: ("week", date(2026, 1, 5)),
    28: ("month", date(2026, 2, 1)),
    29: ("month", date(2028, 2, 1)),
    30: ("month", date(2026, 4, 1)),
    31: ("month", date(2026, 1, 1)),
    90: ("quarter", date(2026, 1, 1)),
    91: ("quarter", date(2026, 4, 1)),
    92: ("quarter", date(2026, 7, 1)),
    365: ("year", date(2026, 1, 1)),
    366: ("year", date(2028, 1, 1)),
}


class _Change(NamedTuple):
    """A billing period of `den` days, of which `num` are left after the change."""

    every: str
    start: date
    change: date
    month: str


def _change(asked: Asked) -> _Change:
    num, den = int(asked("num")), int(asked("den"))
    if den not in BEGINS:
        raise Unsupported("den")
    every, start = BEGINS[den]
    end = start + den * DAY
    return _Change(every, start, end - num * DAY, (end - DAY).strftime("%Y-%m"))


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def plan_change(asked: Asked) -> dict[str, Any]:
    """A flat amount in advance, booked for the period; then another plan: what comes back, and what the rest costs."""
    at = _change(asked)
    before = sold(
        [flat("fee", asked("old", "0"))],
        currency=asked("currency", "USD"),
        billing_period={"every": at.every},
        on=[{"id": "old", "from": at.start.isoformat()}],
    )
    (plan,), (old,) = before["plans"], before["subscriptions"]
    other = {**plan, "version": 2, "prices": [flat("fee", asked("new", "0"))]}
    ended = [] if at.change == at.start else [{**old, "to": at.change.isoformat()}]
    begun = {**old, "id": "new", "version": 2, "from": at.change.isoformat()}
    books = Books()
    books.book(before, month=at.month, as_of=_midnight(at.start))
    lines = books.book({**before, "plans": [plan, other], "subscriptions": [*ended, begun]}, month=at.month)
    amounts = [line.amount for line in lines]
    credit = -sum((amount for amount in amounts if amount < 0), ZERO)
    charge = sum((amount for amount in amounts if amount > 0), ZERO)
    return {"credit": credit, "charge": charge, "net": charge - credit}


def seats(asked: Asked) -> dict[str, Any]:
    """Seats are a level over time. A change inside a period costs its share of the rest."""
    at = _change(asked)
    catalog = sold(
        [ask.price(type="unit", unit_price=str(asked("unit")))],
        meter={"aggregation": "time_weighted_sum", "events": "level"},
        billing_period={"every": at.every},
        on=[{"from": at.start.isoformat()}],
    )
    first = ask.event(asked("from", "0"), _midnight(at.start))
    then = ask.event(asked("to", "0"), _midnight(at.change), 1)
    books = Books()
    books.book(catalog, [first], month=at.month)
    return {"amount": _paper(books.book(catalog, [first, then], month=at.month))}


def _paper(lines: list[BookedLine]) -> Decimal:
    return sum((line.amount for line in lines), ZERO)


def credit_cap(asked: Asked) -> dict[str, Any]:
    """What was paid, what was given back of it, and what would come back now: never more than there still is."""
    catalog, books = sold([ask.price(type="unit", unit_price="1")]), Books()
    steps = [str(asked("paid", "0")), f"-{asked('previous', '0')}", f"-{asked('potential', '0')}"]
    events = [ask.event(quantity, row=row) for row, quantity in enumerate(steps) if Decimal(quantity)]
    known = [event for event in events if event["row"] < 2]
    for so_far in (known[:1], known):
        books.book(catalog, so_far)
    return {"credit": -_paper(books.book(catalog, events))}


def cycles(asked: Asked) -> dict[str, Any]:
    """How many billing periods are due in advance at a day: an amount of 1 for each, partial ones by their days."""
    target, start, scale = date.fromisoformat(asked("target")), date.fromisoformat(asked("start")), int(asked("scale"))
    to = {} if asked("end") is None else {"to": asked("end")}
    catalog = sold(
        [flat("cycle", "1")],
        billing_period={"anchor": f"2000-01-{int(asked('bcd')):02}", "proration": "local_days"},
        on=[{"from": start.isoformat(), **to}],
    )
    found, month = [], _midnight(start).replace(day=1)
    # A period ends at most one month after the one in which it begins.
    while month.date() <= target + 62 * DAY:
        found += Books().book(catalog, month=month.strftime("%Y-%m"), as_of=_midnight(target))
        month = add_months(month, 1)
    return {"cycles": sum((round_amount(line.exact_amount, scale) for line in found), ZERO)}


def ratio(asked: Asked) -> dict[str, Any]:
    """The share of a period that is left, by its local days or as if a month had thirty."""
    fixed = asked("fixed_days")
    if fixed not in {None, 30}:
        raise Unsupported("fixed_days")
    basis = "local_days" if fixed is None else "thirty_day_month"
    period = Period(*(_midnight(date.fromisoformat(asked(name))) for name in ("period_start", "period_end")))
    share = share_between(_midnight(date.fromisoformat(asked("from"))), period.end, period, basis, "UTC")
    return {"ratio": round_fraction(share, int(asked("scale")))}


def factor(asked: Asked) -> dict[str, Any]:
    """So many local days of so many: the share, and the share of one day."""
    start, end = (_midnight(date.fromisoformat(asked(name))) for name in ("from", "to"))
    period = Period(*(_midnight(date.fromisoformat(asked(name))) for name in ("period_start", "period_end")))
    day = _one_day(period, "UTC")
    share = share_between(start, end, period, "local_days", "UTC")
    return {"num": Decimal((share / day).numerator), "den": Decimal(day.denominator)}


def days(asked: Asked) -> dict[str, Any]:
    """The local days of a zone in a span of time: how many times the first of them."""
    start, end = (wall_to_instant(datetime.fromisoformat(asked(name)), asked("tz")) for name in ("start", "end"))
    return {"days": _one_day(Period(start, end), asked("tz")).denominator if start < end else 0}


def _one_day(period: Period, timezone: str) -> Fraction:
    # A local day has 23 to 25 hours, so 26 hours end on the next one.
    first = period.start.astimezone(UTC)
    return share_between(first, min(first + timedelta(hours=26), period.end), period, "local_days", timezone)


def weighted_sum(asked: Asked) -> dict[str, Any]:
    """A level over time, as its mean over the whole span; a quantity has nine places."""
    period = tuple(ask_instant(asked(name)) for name in ("start", "end"))
    events = [ask.event(v, ask_instant(at), row) for row, (at, v) in enumerate(asked("events", []))]
    scale = int(asked("scale", 9))
    rounding = {"round": {"mode": "round", "places": scale}} if scale < 9 else {}
    meter = {"aggregation": "time_weighted_sum", "events": "delta", "negative_allowed": True, **rounding}
    price = ask.price(type="unit", unit_price="1")
    (rated,) = peers_books.of_events(price, events, meter, (period[0], period[1])).values()
    return {"value": rated.quantity}


def ask_instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


ANSWERS: dict[str, Answer] = {
    "prorate_change": plan_change,
    "slots": seats,
    "credit_cap": credit_cap,
    "kb_cycles": cycles,
    "kb_ratio": ratio,
    "factor": factor,
    "days": days,
    "weighted_sum": weighted_sum,
}
