"""The reader of `peers.jsonl`. A case says what it does by `op`; areas only sort the cases.

Prices are in peers_prices, what stands around them in peers_money, shares of periods in peers_shares; roundings, periods
and cuts are here.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

from metering.periods import CALENDAR_ANCHOR, BillingCycle, WallPeriod, add_months, wall_to_instant
from metering.usage import load_events
from rating.frozen import PERIODS_BACK, frozen_spans
from rating.proration import share_of
from rating.rate import rate
from rating.terms import billing_spans
from tests.conformance import ask, peers_books, peers_money, peers_prices, peers_shares
from tests.conformance.ask import Cut
from tests.conformance.cases import Answer, Asked, Unsupported
from tests.rated import engine, events_table, terms_of

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY_US = 86_400_000_000


def _tiers(asked: Asked) -> list[dict[str, Any]]:
    return [ask.tier(row("up_to"), row("unit"), row("flat")) for row in asked.rows("tiers")]


def rounded(asked: Asked) -> dict[str, Any]:
    if asked("mode") not in {"half_up", "half_away_from_zero"}:
        raise Unsupported("rounding mode")
    return {"amount": ask.rounded(asked("amount"), asked("currency"))}


def round_product(asked: Asked) -> dict[str, Any]:
    return {
        "amount": ask.worth(
            ask.price(type="unit", unit_price=str(asked("unit"))), asked("quantity"), asked("currency")
        ).amount
    }


def round_sum(asked: Asked) -> dict[str, Any]:
    """Lines are rounded, then added."""
    amounts = [ask.rounded(amount, asked("currency")) for amount in asked("amounts")]
    return {"amount": sum(amounts, Decimal(0))}


def delta_rounded(asked: Asked) -> dict[str, Any]:
    """The same quantity again after it was booked: rounding books nothing of its own."""
    terms, quantity, billed = (
        ask.price(type="unit", unit_price=str(asked("unit"))),
        Decimal(str(asked("quantity"))),
        Decimal(asked("billed")),
    )
    (first, _), (again, _) = ask.cuts(terms, [Cut(quantity), Cut(quantity)])
    if first != billed:
        raise Unsupported("billed by other terms")
    return {"amount": again}


def cancel_window(asked: Asked) -> dict[str, Any]:
    """Usage of a subscription that ends: the end is open, so an event at that instant is out."""
    asked("include_cancel_instant")
    events = [ask.event(quantity, _instant(at), row) for row, (at, quantity) in enumerate(asked("events", []))]
    (used,) = ask.usage("sum", events, period=(_instant(asked("start")), _instant(asked("cancel"))))
    return {"billed": used.quantity}


def assign_period(asked: Asked) -> dict[str, Any]:
    """The periods, by number, in which an event counts."""
    bounds, event = [_instant(text) for text in asked("bounds")], ask.event(1, _instant(asked("ts")))
    used = [ask.usage("count", [event], period=period)[0].quantity for period in pairwise(bounds)]
    return {"periods": [number for number, quantity in enumerate(used) if quantity]}


def month_add(asked: Asked) -> dict[str, Any]:
    return {"date": add_months(datetime.fromisoformat(asked("date")), int(asked("months", 0))).date().isoformat()}


def month_buckets(asked: Asked) -> dict[str, Any]:
    """Events at local wall times, counted per calendar month of the zone."""
    timezone = asked("tz")
    instants = [wall_to_instant(datetime.fromisoformat(text), timezone) for text in asked("local_events", [])]
    cycle = BillingCycle("month", CALENDAR_ANCHOR, timezone)
    events = [ask.event(1, instant, row) for row, instant in enumerate(instants)]
    counts = {}
    for number in sorted({cycle.number_at(instant) for instant in instants}):
        start, end = cycle.boundary(number), cycle.boundary(number + 1)
        month = add_months(CALENDAR_ANCHOR, number).strftime("%Y-%m")
        counts[month] = ask.usage("count", events, period=(start, end))[0].quantity
    return {"counts": counts}


def late_window(asked: Asked) -> dict[str, Any]:
    """Usage of the current and of earlier periods, all found now, by a plan that looks back two periods, or without end."""
    current, back = int(asked("current_period")), int(asked("max_previous", PERIODS_BACK))
    policy = "two_periods" if back == PERIODS_BACK else "correct"
    given = [(int(row("period")), Decimal(str(row("qty")))) for row in asked.rows("events")]
    if any(not 0 <= period <= current for period, _ in given):
        raise Unsupported("period outside")
    days = [START + timedelta(days=number) for number in range(current + 2)]
    plan = {"billing_period": {"every": "day"}, "switches": {"late_usage": policy}}
    terms = terms_of(ask.catalog([ask.price(type="unit", unit_price="1")], plan=plan))
    walls = [WallPeriod(*(at.replace(tzinfo=None) for at in day)) for day in pairwise(days)]
    spans = billing_spans(terms, walls[-1], walls[:-1])
    frozen = set(frozen_spans(terms, spans, lambda: walls[:-1], walls[-1]))
    events = [ask.event(quantity, days[period], row) for row, (period, quantity) in enumerate(given)]
    load_events(engine(), events_table(events))
    rate(engine(), terms, spans, days[-1])
    worth = engine().execute("SELECT span_id, amount FROM worth").fetchall()
    billed = sum((amount for span_id, amount in worth if span_id not in frozen), Decimal(0))
    return {"billed": billed, "ignored": sum((quantity for _, quantity in given), Decimal(0)) - billed}


def coverage(asked: Asked) -> dict[str, Any]:
    """What a table of tiers that may end leaves without a price: use without an amount, and said to be so."""
    terms = ask.price(type="graduated", tiers=_tiers(asked))
    events = [ask.event(asked("quantity"), peers_books.START)]
    sold = peers_books.sold([terms], switches={"tiers_past_end": "lose"})
    peers_books.Books().book(sold, events)
    left = engine().execute("SELECT coalesce(sum(quantity), 0) FROM unpriced_usage").fetchall()
    return {"uncovered": left[0][0]}


def windowed_vs_cumulative(asked: Asked) -> dict[str, Any]:
    """Windows rated one by one (what not to do), and as cuts of one period (ours)."""
    terms, windows = ask.price(type="graduated", tiers=_tiers(asked)), [Decimal(str(w)) for w in asked("windows")]
    reached = [sum(windows[: number + 1], Decimal(0)) for number in range(len(windows))]
    return {
        "per_window": sum((ask.worth(terms, quantity).amount for quantity in windows), Decimal(0)),
        "cumulative": sum((amount for amount, _ in ask.cuts(terms, [Cut(q) for q in reached])), Decimal(0)),
    }


def fraction(asked: Asked) -> dict[str, Any]:
    """A flat amount for some of its days, in UTC where all days are alike."""
    lengths = [int(asked(name)) * DAY_US for name in ("num", "den")]
    return {"amount": ask.rounded(share_of(Decimal(str(asked("amount"))), *lengths), asked("currency", "USD"))}


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


ANSWERS: dict[str, Answer] = {
    **peers_money.ANSWERS,
    **peers_prices.ANSWERS,
    **peers_shares.ANSWERS,
    "round": rounded,
    "round_product": round_product,
    "round_sum": round_sum,
    "delta_rounded": delta_rounded,
    "cancel_window": cancel_window,
    "assign_period": assign_period,
    "month_add": month_add,
    "month_buckets": month_buckets,
    "late_window": late_window,
    "coverage": coverage,
    "windowed_vs_cumulative": windowed_vs_cumulative,
    "fraction": fraction,
}
