"""The slow, obvious rating: a second implementation to compare the engine with. It shares no code with the packages.

What enters: the catalog as plain dicts in the shape of its YAML files (numbers are text) and usage events as dicts
(tenant_id, meter, quantity text, event_time and recorded_at as aware datetimes, producer_id, segment, row,
idempotency_key or None, attributes dict). What leaves: one (quantity, exact amount, rounded amount) per invoice line.
It refuses nothing: give it valid catalogs and events that were accepted.

Every rule is written once, straight from the price rules, one event and one tier at a time, in `Decimal` with 80 digits
(`Fraction` for shares of time). Where the engine and this file disagree one has a bug; this one is short enough to read.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

Row = dict[str, Any]
Group = tuple[str | None, ...]
LineKey = tuple[str, datetime, str, Group]

EXACT = Context(prec=80)
ZERO = Decimal(0)
# ISO 4217: currencies whose minor unit is not a hundredth. Only those that the tests use.
MINOR_DIGITS = {"JPY": 0, "KRW": 0, "CLP": 0, "KWD": 3, "BHD": 3, "TND": 3}


@dataclass(frozen=True)
class Line:
    """One invoice line: the quantity it charges, the exact amount, and the amount in minor units of the currency."""

    quantity: Decimal
    exact: Decimal
    amount: Decimal


NOTHING = Line(ZERO, ZERO, ZERO)


@dataclass(frozen=True)
class Period:
    """A billing period [start, end) and the part [service_start, service_end) of it that the subscription covers."""

    start: datetime
    end: datetime
    service_start: datetime
    service_end: datetime


def add(*numbers: Decimal) -> Decimal:
    total = ZERO
    for number in numbers:
        total = EXACT.add(total, number)
    return total


def times(left: Decimal, right: Decimal) -> Decimal:
    return EXACT.multiply(left, right)


def round_half_away(amount: Decimal, digits: int) -> Decimal:
    """ROUND_HALF_UP of `decimal` goes away from zero on a tie, for negative numbers too: -1.225 -> -1.23."""
    rounded = amount.quantize(Decimal(1).scaleb(-digits), rounding=ROUND_HALF_UP, context=EXACT)
    return rounded if rounded else abs(rounded)


def round_fraction(value: Fraction, digits: int) -> Decimal:
    """Round an exact rational half away from zero, in integers."""
    scaled = abs(value) * 10**digits
    whole = (2 * scaled.numerator + scaled.denominator) // (2 * scaled.denominator)
    return EXACT.scaleb(Decimal(whole if value >= 0 else -whole), -digits)


def instant(wall: datetime, zone: str) -> datetime:
    """Return the UTC instant of a wall time: skipped -> the first instant after the gap, repeated -> the first one."""
    tz = ZoneInfo(zone)
    before = wall.replace(tzinfo=tz, fold=0).astimezone(UTC)
    if before.astimezone(tz).replace(tzinfo=None) == wall:
        return before
    # The wall time does not exist. The offset in force before the gap puts it after the gap, the offset in force
    # after the gap puts it before: the clock changes between the two, on a whole second.
    low, high = wall.replace(tzinfo=tz, fold=1).astimezone(UTC).replace(microsecond=0), before
    offset_before = low.astimezone(tz).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=(high - low) // timedelta(seconds=1) // 2)
        low, high = (middle, high) if middle.astimezone(tz).utcoffset() == offset_before else (low, middle)
    return high.replace(microsecond=0)


def local(when: datetime, zone: str) -> datetime:
    return when.astimezone(ZoneInfo(zone)).replace(tzinfo=None)


def add_months(wall: datetime, months: int) -> datetime:
    """Add months to a wall time; the day is clamped to the length of the month."""
    index = wall.year * 12 + wall.month - 1 + months
    year, month = divmod(index, 12)
    day = min(wall.day, calendar.monthrange(year, month + 1)[1])
    return wall.replace(year=year, month=month + 1, day=day)


MONTHS = {"month": 1, "quarter": 3, "year": 12}
DAYS = {"day": 1, "week": 7}


def boundary(anchor: datetime, every: str, n: int, zone: str) -> datetime:
    """Return boundary n of the billing periods, always worked out from the original anchor (a local wall time)."""
    if every in MONTHS:
        return instant(add_months(anchor, MONTHS[every] * n), zone)
    return instant(anchor + timedelta(days=DAYS[every] * n), zone)


def moment(text: str | date | datetime, zone: str) -> datetime:
    """Read a date (midnight in the zone) or a date and time with offset."""
    value = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    return instant(value, zone) if value.tzinfo is None else value.astimezone(UTC)


def billing_periods(every: str, anchor: str, zone: str, start: datetime, end: datetime) -> Iterator[Period]:
    """Yield the billing periods that [start, end) touches, in order; `start` and `end` are the subscription's.

    anchor is "calendar" (months from the 1st, weeks from Monday, years from 1 January), "subscription" (the
    subscription's start, clock time included) or an ISO date (midnight).
    """
    if anchor == "calendar":
        origin = datetime(1970, 1, 5 if every == "week" else 1)  # noqa: DTZ001  5 January 1970 was a Monday
    elif anchor == "subscription":
        origin = local(start, zone)
    else:
        origin = datetime.fromisoformat(str(anchor))
    begins = local(start, zone)
    if every in MONTHS:
        n = ((begins.year - origin.year) * 12 + begins.month - origin.month) // MONTHS[every] - 2
    else:
        n = (begins - origin).days // DAYS[every] - 3
    while (opens := boundary(origin, every, n, zone)) < end:
        closes = boundary(origin, every, n + 1, zone)
        n += 1
        service_start, service_end = max(opens, start), min(closes, end)
        if service_start < service_end:
            yield Period(opens, closes, service_start, service_end)


def month_bounds(month: str, zone: str) -> tuple[datetime, datetime]:
    """Return [start, end) of "2026-03" in the zone."""
    first = datetime.fromisoformat(month + "-01")
    return instant(first, zone), instant(add_months(first, 1), zone)


def order(event: Row) -> tuple[Any, ...]:
    return event["event_time"], event["recorded_at"], event["producer_id"], event["segment"], event["row"]


def dedupe(events: list[Row]) -> list[Row]:
    """Keep one event per (tenant, meter, key): the one recorded first. Events without a key are all kept."""
    kept: list[Row] = []
    first: dict[tuple[str, str, str], Row] = {}
    for event in events:
        if event["idempotency_key"] is None:
            kept.append(event)
            continue
        identity = (event["tenant_id"], event["meter"], event["idempotency_key"])
        other = first.get(identity)
        if other is None or recorded(event) < recorded(other):
            first[identity] = event
    return kept + list(first.values())


def recorded(event: Row) -> tuple[Any, ...]:
    return event["recorded_at"], event["producer_id"], event["segment"], event["row"]


def text(value: object) -> str | None:
    """Attributes are compared as text; a missing one and a null one are the same, an empty one is a value."""
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def attribute(event: Row, name: str) -> str | None:
    return text(event["attributes"].get(name))


def group(event: Row, by: list[str]) -> Group:
    return tuple(attribute(event, name) for name in by)


def aggregate(events: list[Row], meter: Row) -> Decimal | None:
    """Return the quantity of these events, or None where the aggregation of nothing is not a number."""
    kind = meter.get("aggregation", "sum")
    quantities = [Decimal(event["quantity"]) for event in events]
    if kind == "count":
        return Decimal(len(events))
    if kind == "sum":
        return add(*quantities)
    if kind == "unique_count":
        name = meter.get("unique_attribute") or meter["attributes"][0]
        return Decimal(len({attribute(event, name) for event in events} - {None}))
    if not events:
        return None
    if kind == "last":
        return Decimal(max(events, key=order)["quantity"])
    return max(quantities) if kind == "max" else min(quantities)


def rated_quantity(events: list[Row], meter: Row) -> Decimal:
    """Nothing, and anything below zero, is rated as zero."""
    quantity = aggregate(events, meter)
    return ZERO if quantity is None or quantity < 0 else quantity


def flat_amount(price: Row, period: Period, plan: Row | None = None) -> Decimal:
    """Return the flat amount, prorated unless the price says otherwise, with 21 decimals."""
    from tests import oracle_adjust

    span = oracle_adjust.Span({}, plan or {}, period)
    return round_fraction(oracle_adjust.amount_of(price, span, prorate=True), 21)


def price_lines(
    price: Row, meters: dict[str, Row], events: list[Row], period: Period, plan: Row | None = None
) -> dict[Group, tuple[Any, ...]]:
    """Return (quantity, exact amount) per group; `events` are the tenant's, of any meter and any time."""
    if price["type"] == "flat":
        return {(): (Decimal(1), flat_amount(price, period, plan))}
    from tests import oracle_levels

    plan = plan or {}
    found = unlimited_lines(price, meters, events, period, plan)
    if not price.get("line_limits") and not price.get("amount_tiers"):
        return found
    # Tiers of money and limits look at exact amounts, also where a plan rounds the components afterwards.
    exact = unlimited_lines(price, meters, events, period, oracle_levels.unrounded(plan))
    return {
        key: (quantity, add(amount, oracle_levels.around_line(price, exact[key][1], period, plan)))
        for key, (quantity, amount) in found.items()
    }


def unlimited_lines(
    price: Row, meters: dict[str, Row], events: list[Row], period: Period, plan: Row
) -> dict[Group, tuple[Any, ...]]:
    """Return the lines before limits of a line are looked at."""
    from tests import oracle_dialect, oracle_levels, oracle_prices, oracle_usage

    if "opens" in price:
        return oracle_levels.since_plan(price, meters, events, period, plan)
    price = oracle_dialect.read(price, plan)
    span = {
        "start": period.service_start, "end": period.service_end, "period_start": period.start, "period_end": period.end,
        "zone": (plan.get("billing_period") or {}).get("timezone", "UTC"),
    }  # fmt: skip
    if price["type"] == "capacity":
        return oracle_levels.capacity(price, meters, events, span)
    meter = meters[price["meter"]]
    rivals = [other for other in plan.get("prices", [price]) if other.get("meter") == price["meter"]]
    groups: dict[Group, list[Row]] = {}
    for event in events:
        counts = event["event_time"] < period.service_end and oracle_usage.is_held(event, meter, period.service_start)
        if counts and event["meter"] == price["meter"] and oracle_prices.takes(price, rivals, event):
            groups.setdefault(group(event, price.get("by") or []), []).append(event)
    if not price.get("by") and not oracle_prices.has_cells(price):
        groups.setdefault((), [])

    def measure(some: list[Row]) -> Decimal:
        return oracle_prices.decimal(oracle_usage.measured(some, meter, span))

    if price.get("tiers_by") == "held":
        return {
            key: (max(ZERO, measure(members)), oracle_levels.held_amount(price, members, span, plan))
            for key, members in groups.items()
            if not price.get("by") or oracle_usage.has_row(members, meter, span)
        }
    use = {key: oracle_prices.by_cell(price, members, measure, span["zone"]) for key, members in groups.items()}
    if price.get("combine"):
        use = oracle_levels.combined(price, use, meters[price["combine"]["meter"]], events, span)
    if meter.get("carry") == "recurring":
        # What is carried and comes to nothing is no row.
        use = {key: oracle_prices.rows_of(price, cells, meter, span) for key, cells in use.items()}
        use = {key: cells for key, cells in use.items() if cells}
    if price.get("prorate_included"):
        price = {**price, "included": oracle_levels.included_share(price, period, plan)}
    if price.get("groups_priced") == "largest":
        return oracle_levels.of_largest(price, use)
    found = oracle_prices.lines(price, use)
    return oracle_levels.with_promises(price, use, found, span) if price.get("bucket_commitment") else found


def rated_periods(catalog: Row, month: str, account: str | None = None) -> Iterator[tuple[Row, Row, Period]]:
    """Yield (subscription, plan, period) of the billing periods whose last instant lies in the month, in each zone."""
    payer = {tenant: one["id"] for one in catalog.get("accounts", []) for tenant in one["tenants"]}
    for subscription, plan, period in all_periods(catalog, month):
        if account not in (None, subscription.get("account") or payer.get(subscription["tenant"])):
            continue
        month_start, month_end = month_bounds(month, (plan.get("billing_period") or {}).get("timezone", "UTC"))
        if month_start < period.end <= month_end:
            yield subscription, plan, period


def all_periods(catalog: Row, month: str) -> Iterator[tuple[Row, Row, Period]]:
    """Yield (subscription, plan, period) of every billing period that begins before the end of the month."""
    from tests import oracle_adjust

    plans = {(plan["name"], str(plan["version"])): plan for plan in catalog["plans"]}
    for subscription in catalog["subscriptions"]:
        for plan, opens, closes in oracle_adjust.phases(subscription, plans):
            cycle = plan.get("billing_period") or {}
            zone = cycle.get("timezone", "UTC")
            _, month_end = month_bounds(month, zone)
            origin = cycle.get("anchor", "calendar")
            # A cycle around the subscription's start is around it for all of its plans, each in its own zone.
            start = moment(subscription["from"], zone)
            around = local(start, zone).isoformat() if origin == "subscription" else origin
            for period in billing_periods(cycle.get("every", "month"), around, zone, opens, closes):
                if period.start >= month_end:
                    break
                yield subscription, plan, period


Rated = tuple[Row, Row, Period]


def priced_spans(catalog: Row, events: list[Row], periods: list[Rated], month: str) -> list[Any]:
    """Return billing spans with what their prices make of the events, before anything that stands around prices.

    All periods that begin before the end of `month` say which events are on time.
    """
    from tests import oracle_adjust, oracle_events, oracle_granted, oracle_levels

    meters = {meter["name"]: meter for meter in catalog["meters"]}
    counted = oracle_events.on_time(oracle_events.standing(dedupe(events)), list(all_periods(catalog, month)))
    spans = []
    for subscription, version, period in periods:
        usage = [event for event in counted if event["tenant_id"] == subscription["tenant"]]
        plan = oracle_levels.opened(oracle_adjust.overridden(version, subscription), subscription, catalog, period)
        span = oracle_adjust.Span(subscription, plan, period)
        priced = oracle_levels.unrounded(plan)
        bases: dict[str, Fraction] = {}
        for price in plan["prices"]:
            if price["type"] == "percent_of":
                continue
            bases[price["id"]] = oracle_levels.base_of(
                price, meters, usage, oracle_adjust.Span(subscription, priced, period)
            )
            if price["type"] == "flat":
                units, amount = oracle_adjust.flat(price, span)
                span.lines.append(oracle_adjust.Net(price["id"], (), [], units, amount))
                continue
            asked = (
                oracle_granted.with_included(catalog, subscription, price, period, usage)
                if "included_from" in price
                else price
            )
            for key, (quantity, exact) in price_lines(asked, meters, usage, period, plan).items():
                by = price.get("by") or []
                span.lines.append(oracle_adjust.Net(price["id"], key, by, quantity, Fraction(exact)))
        for price in plan["prices"]:
            if price["type"] == "percent_of":
                amount = oracle_levels.percent_of(price, bases, period, plan)
                span.lines.append(oracle_adjust.Net(price["id"], (), [], Decimal(1), amount))
        spans.append(span)
    return spans


def lines(catalog: Row, events: list[Row], month: str, account: str | None = None) -> dict[LineKey, Line]:
    """Return every invoice line of the billing periods that end in the month."""
    from tests import oracle_adjust, oracle_pots

    periods = list(rated_periods(catalog, month, account))
    spans = priced_spans(catalog, events, periods, month)
    before: list[oracle_adjust.Span] = []
    if oracle_pots.has_pots(catalog):
        # What was used before is worked out from all that was ever rated, also of this month.
        months = oracle_pots.months_until(catalog, month)
        earlier = [one for each in months for one in rated_periods(catalog, each)]
        before = priced_spans(catalog, events, earlier, month)
        oracle_adjust.adjust(catalog, before)
    oracle_adjust.adjust(catalog, spans, before)
    found: dict[LineKey, Line] = {}
    for span in spans:
        for net in span.lines:
            exact = round_fraction(net.exact, 21)
            amount = round_fraction(net.exact, MINOR_DIGITS.get(span.plan["currency"], 2))
            found[span.subscription["id"], span.period.service_start, net.price_id, net.group] = Line(
                net.quantity, exact, amount
            )
    return found


def book(worth: dict[LineKey, Line], booked: dict[LineKey, Line]) -> dict[LineKey, Line]:
    """Return what is to be booked now: worth minus booked, per line. A key that vanished is reversed in full."""
    negated = {key: Line(-line.quantity, -line.exact, -line.amount) for key, line in booked.items()}
    return {key: line for key, line in total(worth, negated).items() if line != NOTHING}


def total(booked: dict[LineKey, Line], more: dict[LineKey, Line]) -> dict[LineKey, Line]:
    """Return what is booked after `more` was booked too."""
    sums = {}
    for key in booked | more:
        old, new = booked.get(key, NOTHING), more.get(key, NOTHING)
        sums[key] = Line(add(old.quantity, new.quantity), add(old.exact, new.exact), add(old.amount, new.amount))
    return sums
