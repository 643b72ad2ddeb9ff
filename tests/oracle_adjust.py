"""The oracle of what stands around the prices: discounts, commitments, maximums, minimums, and shares of a period.

What enters: the lines of all billing spans, as the prices made them. What leaves: the same lines, lowered or raised, and
true-up lines of their own. One discount, one line at a time, in `Fraction`; amounts are cut to 21 places where a rule says
so. It shares no code with the packages, and refuses nothing.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from tests import oracle

Row = dict[str, Any]
HUNDRED = Fraction(100)
MICROSECOND = timedelta(microseconds=1)
THIRTY = {"month": 30, "quarter": 90, "year": 360}


@dataclass
class Net:
    """One line on its way: what the price made, then what is left of it."""

    price_id: str
    group: tuple[str | None, ...]
    by: list[str]
    quantity: Decimal
    exact: Fraction

    @property
    def place(self) -> bytes:
        """Groups of a price stand in the order of their canonical JSON."""
        named = dict(zip(self.by, self.group, strict=True))
        return json.dumps(named, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() if named else b""


@dataclass
class Span:
    """One billing span and its lines, in the order of paper."""

    subscription: Row
    plan: Row
    period: oracle.Period
    lines: list[Net] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        return [price["id"] for price in self.plan["prices"]]

    @property
    def zone(self) -> str:
        return str((self.plan.get("billing_period") or {}).get("timezone", "UTC"))

    def covered(self, one: Row) -> list[Net]:
        prices = [price_id for price_id in self.ids if price_id in (one.get("prices") or self.ids)]
        found = [line for line in self.lines if line.price_id in prices]
        return sorted(found, key=lambda line: (prices.index(line.price_id), line.place))

    def width(self, one: Row) -> int:
        return len(one.get("prices") or self.ids)


def cut(value: Fraction) -> Fraction:
    """Exact amounts have 21 places, half away from zero."""
    size = math.floor(abs(value) * 10**21 + Fraction(1, 2))
    return Fraction(size if value >= 0 else -size, 10**21)


def share(span: Span, start: datetime, end: datetime) -> Fraction:
    """Return the share of the billing period that [start, end) is, by the basis that the plan declares."""
    cycle = span.plan.get("billing_period") or {}
    basis, opens, closes = cycle.get("proration", "instants"), span.period.start, span.period.end

    def day(when: datetime) -> int:
        return oracle.local(when, span.zone).toordinal()

    if basis == "instants":
        return Fraction((end - start) // MICROSECOND, (closes - opens) // MICROSECOND)
    if basis == "local_days":
        return Fraction(day(end) - day(start), day(closes) - day(opens))
    if basis == "days_inclusive":
        return Fraction(day(end - MICROSECOND) - day(start) + 1, day(closes - MICROSECOND) - day(opens) + 1)
    length = THIRTY[cycle.get("every", "month")]

    def left(when: datetime) -> Fraction:
        return Fraction(0) if when == closes else Fraction(length - min(length, day(when) - day(opens)), length)

    return left(start) - left(end)


def amount_of(one: Row, span: Span, *, prorate: bool) -> Fraction:
    amount = Fraction(str(one["amount"]))
    if not one.get("prorate", prorate):
        return amount
    return cut(amount * share(span, span.period.service_start, span.period.service_end))


def phases(subscription: Row, plans: dict[tuple[str, str], Row]) -> list[tuple[Row, datetime, datetime]]:
    """Return (plan, from, to) of every plan that a subscription is on; a change of units is no phase."""

    def zone(plan: Row) -> str:
        return str((plan.get("billing_period") or {}).get("timezone", "UTC"))

    first = plans[subscription["plan"], str(subscription["version"])]
    until = subscription.get("until") or subscription.get("to")
    never = datetime.max.replace(tzinfo=UTC) - timedelta(days=1)
    end = oracle.moment(until, zone(first)) if until else never
    found = [(first, oracle.moment(subscription["from"], zone(first)), end)]
    for change in subscription.get("changes", []):
        if "version" in change:
            old, opens, _ = found[-1]
            plan = plans[change.get("plan", old["name"]), str(change["version"])]
            at = oracle.moment(change["from"], zone(plan))
            if at < end:
                found[-1] = (old, opens, at)
                found.append((plan, at, end))
    return found


def overridden(plan: Row, subscription: Row) -> Row:
    other = subscription.get("overrides", {})
    return {**plan, "prices": [{**price, **other.get(price["id"], {})} for price in plan["prices"]]}


def flat(price: Row, span: Span) -> tuple[Decimal, Fraction]:
    """Return the units at the end of the service, and the exact amount of all stretches of time with one number each."""
    opens, closes = span.period.service_start, span.period.service_end
    begin = oracle.moment(span.subscription["from"], span.zone)
    charged_from = opens
    if "trial_days" in price:
        wall = oracle.local(begin, span.zone) + timedelta(days=int(price["trial_days"]))
        charged_from = max(opens, oracle.instant(wall, span.zone))
    cuts = units_at(price, span)
    if not price.get("prorate", True):
        held = max(units for at, units in during(cuts, opens, closes))
        free = share(span, opens, min(charged_from, closes)) if charged_from > opens else Fraction(0)
        return Decimal(held.numerator) / Decimal(held.denominator), cut(
            Fraction(str(price["amount"])) * held * max(Fraction(0), 1 - free)
        )
    exact, steps = Fraction(0), during(cuts, opens, closes)
    for (start, units), (end, _) in zip(steps, [*steps[1:], (closes, Fraction(0))], strict=True):
        free = share(span, start, min(charged_from, end)) if charged_from > start else Fraction(0)
        exact += cut(Fraction(str(price["amount"])) * units * max(Fraction(0), share(span, start, end) - free))
    last = steps[-1][1]
    return Decimal(last.numerator) / Decimal(last.denominator), exact


def during(cuts: list[tuple[datetime, Fraction]], opens: datetime, closes: datetime) -> list[tuple[datetime, Fraction]]:
    """Return what holds in [opens, closes): what held when it began, then every change inside."""
    before = [units for at, units in cuts if at <= opens]
    return [(opens, before[-1]), *((at, units) for at, units in cuts if opens < at < closes)]


def units_at(price: Row, span: Span) -> list[tuple[datetime, Fraction]]:
    """Return from when how many units count in this billing period, from its start on."""
    name = price.get("per_unit_of")
    if name is None:
        return [(span.period.start, Fraction(1))]
    said = [(datetime.min.replace(tzinfo=UTC), Fraction(str(span.subscription.get("quantities", {}).get(name, 0))))]
    said += [
        (oracle.moment(change["from"], span.zone), Fraction(str(change["quantities"][name])))
        for change in span.subscription.get("changes", [])
        if name in change.get("quantities", {})
    ]
    found = [(span.period.start, next(units for at, units in reversed(said) if at <= span.period.start))]
    for at, units in said:
        if span.period.start < at < span.period.end:
            counts = found[-1][1]
            rule = price.get("when_more" if units > counts else "when_fewer", "at_once")
            if rule == "at_once" and units != counts:
                found.append((at, units))
    return found


def adjust(catalog: Row, spans: list[Span]) -> None:
    """Lower and raise the lines of all spans, in place, and add true-up lines. Every period counts as over."""
    discount(catalog, spans)
    for span in spans:
        for one in sorted(span.plan.get("commitments", []), key=lambda one: (span.width(one), one["id"])):
            factor = Fraction(str(one.get("overage_factor", "1"))) - 1
            above(span.covered(one), amount_of(one, span, prorate=True), factor)
        for one in sorted(span.plan.get("maximums", []), key=lambda one: (span.width(one), one["id"])):
            above(span.covered(one), amount_of(one, span, prorate=False), Fraction(-1))
        true_up(span)


def above(lines: list[Net], amount: Fraction, factor: Fraction) -> None:
    """Each line bears the part of the excess that it makes, as the net runs up; a negative one gives some back."""
    running = Fraction(0)
    for line in lines:
        before, running = max(Fraction(0), running - amount), running + line.exact
        line.exact += cut((max(Fraction(0), running - amount) - before) * factor)


def true_up(span: Span) -> None:
    digits = oracle.MINOR_DIGITS.get(span.plan["currency"], 2)
    owed = [
        *span.plan.get("minimums", []),
        *(one for one in span.plan.get("commitments", []) if one.get("true_up", True)),
    ]
    done: list[Row] = []
    for one in sorted(owed, key=lambda one: (span.width(one), one["id"])):
        prices = set(one.get("prices") or span.ids)
        inner = {other["id"] for other in done if set(other.get("prices") or span.ids) <= prices}
        done.append(one)
        paid = sum(
            (rounded(line.exact, digits) for line in span.lines if line.price_id in prices | inner), start=Fraction(0)
        )
        missing = rounded(amount_of(one, span, prorate=True), digits) - paid
        if missing > 0:
            span.lines.append(Net(one["id"], (), [], Decimal(1), missing))


def rounded(value: Fraction, digits: int) -> Fraction:
    return Fraction(oracle.round_fraction(value, digits))


def discount(catalog: Row, spans: list[Span]) -> None:
    offers: dict[tuple[Any, ...], list[tuple[Row, Span]]] = {}
    for span in spans:
        for owner, whose, one in offered(catalog, span):
            if holds(one, span):
                scope = 0 if one.get("prices") else 1 if owner != "account" or one.get("plans") else 2
                terms = tuple(str(Fraction(str(one.get(name, 0)))) for name in ("percent", "amount"))
                key = (scope, "amount" in one, one["id"], owner, whose, (*terms, *one.get("prices", ())))
                offers.setdefault(key, []).append((one, span))
    for key in sorted(offers):
        if not key[1]:
            for one, span in offers[key]:
                for line in span.covered(one):
                    line.exact -= cut(max(Fraction(0), line.exact) * Fraction(str(one["percent"])) / HUNDRED)
            continue
        pools: dict[tuple[Any, ...], list[tuple[Row, Span]]] = {}
        for one, span in offers[key]:
            whose = "" if key[3] == "account" else span.subscription["id"]
            pools.setdefault((whose, span.plan["currency"], span.period.start, span.period.end), []).append((one, span))
        for pool in pools.values():
            take(pool)


def take(pool: list[tuple[Row, Span]]) -> None:
    """Share a fixed amount out over the lines that are worth something, to the minor unit; none falls below zero."""
    pool.sort(key=lambda row: (row[1].subscription["id"], row[1].period.service_start))
    lines = [line for one, span in pool for line in span.covered(one) if line.exact > 0]
    digits = oracle.MINOR_DIGITS.get(pool[0][1].plan["currency"], 2)
    amount, whole = Fraction(str(pool[0][0]["amount"])), sum((line.exact for line in lines), start=Fraction(0))
    if amount >= whole:
        for line in lines:
            line.exact = Fraction(0)
        return
    units = rounded(amount, digits) * 10**digits
    wanted = [units * line.exact / whole for line in lines]
    given = [math.floor(one) for one in wanted]
    for at in sorted(range(len(lines)), key=lambda at: given[at] - wanted[at])[: int(units - sum(given))]:
        given[at] += 1
    for line, one in zip(lines, given, strict=True):
        line.exact -= min(line.exact, Fraction(one, 10**digits))


def offered(catalog: Row, span: Span) -> list[tuple[str, str, Row]]:
    tenant, payer = span.subscription["tenant"], span.subscription.get("account")
    found = [("plan", span.plan["name"], one) for one in span.plan.get("discounts", [])]
    for account in catalog.get("accounts", []):
        if account["id"] == payer or (payer is None and tenant in account["tenants"]):
            found += [("account", account["id"], one) for one in account.get("discounts", [])]
    return found + [("subscription", span.subscription["id"], one) for one in span.subscription.get("discounts", [])]


def holds(one: Row, span: Span) -> bool:
    """A discount holds for the billing periods that begin within its time, and for the first few of these."""
    if one.get("currency", span.plan["currency"]) != span.plan["currency"]:
        return False
    if one.get("plans") and span.plan["name"] not in one["plans"]:
        return False
    start = oracle.moment(span.subscription["from"], span.zone)
    opens = oracle.moment(one["from"], span.zone) if "from" in one else start
    closes = oracle.moment(one["to"], span.zone) if "to" in one else datetime.max.replace(tzinfo=UTC)
    begins = max(span.period.start, start)
    if not opens <= begins < closes:
        return False
    if "periods" not in one:
        return True
    cycle = span.plan.get("billing_period") or {}
    terms = (cycle.get("every", "month"), cycle.get("anchor", "calendar"), span.zone)
    earlier = [
        period
        for period in oracle.billing_periods(*terms, start, begins + MICROSECOND)
        if opens <= max(period.start, start)
    ]
    return len(earlier) <= (1 if one["periods"] == "once" else int(one["periods"]))
