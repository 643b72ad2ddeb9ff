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

from tests import oracle, oracle_dialect

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
    # What each commitment saw of the lines that it covers.
    seen: dict[str, Fraction] = field(default_factory=dict)

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


def basis_of(plan: Row) -> str:
    """Return the basis that the plan declares: in its billing period, else by its switch."""
    said = (plan.get("billing_period") or {}).get("proration", "instants")
    return oracle_dialect.answer(plan, "proration_basis") if said == "instants" else str(said)


def share(span: Span, start: datetime, end: datetime, basis: str | None = None) -> Fraction:
    """Return the share of the billing period that [start, end) is, by the basis of the plan."""
    cycle = span.plan.get("billing_period") or {}
    basis, opens, closes = basis or basis_of(span.plan), span.period.start, span.period.end

    def day(when: datetime) -> int:
        return oracle.local(when, span.zone).toordinal()

    if basis == "instants":
        return Fraction((end - start) // MICROSECOND, (closes - opens) // MICROSECOND)
    if basis == "local_days":
        return Fraction(day(end) - day(start), day(closes) - day(opens))
    if basis == "nominal_year":
        return min(Fraction(day(end) - day(start), 365), Fraction(1))
    if basis == "days_inclusive":
        return Fraction(day(end - MICROSECOND) - day(start) + 1, day(closes - MICROSECOND) - day(opens) + 1)
    length = THIRTY[cycle.get("every", "month")]

    def left(when: datetime) -> Fraction:
        return Fraction(0) if when == closes else Fraction(length - min(length, day(when) - day(opens)), length)

    return left(start) - left(end)


def amount_of(one: Row, span: Span, *, prorate: bool, is_owed: bool = False) -> Fraction:
    amount, period = Fraction(str(one["amount"])), span.period
    if not one.get("prorate", prorate):
        return amount
    by_days = is_owed and oracle_dialect.answer(span.plan, "minimum_share") == "whole_days"
    if (period.service_start, period.service_end) == (period.start, period.end):
        return amount
    return cut(amount * share(span, period.service_start, period.service_end, "days_inclusive" if by_days else None))


def phases(subscription: Row, plans: dict[tuple[str, str], Row]) -> list[tuple[Row, datetime, datetime]]:
    """Return (plan, from, to) of every plan that a subscription is on; a change of units is no phase."""

    def zone(plan: Row) -> str:
        return str((plan.get("billing_period") or {}).get("timezone", "UTC"))

    first = plans[subscription["plan"], str(subscription["version"])]
    until = subscription.get("until") or subscription.get("to")
    never = datetime.max.replace(tzinfo=UTC) - timedelta(days=1)
    end = oracle.moment(until, zone(first)) if until else never
    begin, name = oracle.moment(subscription["from"], zone(first)), first["name"]
    # When each plan begins to hold, as far as it is known; what is said later takes the place of what still waits.
    starts = [(begin, first)]
    for change in (one for one in subscription.get("changes", []) if "version" in one):
        name = change.get("plan", name)
        plan = plans[name, str(change["version"])]
        said = oracle.moment(change["from"], zone(plan))
        starts = [starts[0], *(one for one in starts[1:] if one[0] < said)]
        at = max(said, starts[-1][0])
        if change.get("takes_effect") == "period_end":
            at = end_of_period(starts[-1][1], subscription, at)
        starts.append((at, plan))
    ends = [min(at, end) for at, _ in starts[1:]] + [end]
    return [(plan, at, until) for (at, plan), until in zip(starts, ends, strict=True) if at < until]


def end_of_period(plan: Row, subscription: Row, at: datetime) -> datetime:
    """Return the end of the billing period of a plan that holds an instant; the instant itself where a period begins at it."""
    cycle = plan.get("billing_period") or {}
    zone, anchor = cycle.get("timezone", "UTC"), cycle.get("anchor", "calendar")
    begin = oracle.moment(subscription["from"], zone)
    around = oracle.local(begin, zone).isoformat() if anchor == "subscription" else anchor
    [period] = oracle.billing_periods(cycle.get("every", "month"), around, zone, at, at + timedelta(microseconds=1))
    return at if at == period.start else period.end


def overridden(plan: Row, subscription: Row) -> Row:
    other = subscription.get("overrides", {})
    return {**plan, "prices": [{**price, **other.get(price["id"], {})} for price in plan["prices"]]}


def flat(price: Row, span: Span) -> tuple[Decimal, Fraction]:
    """Return the units at the end of the service, and the exact amount of all stretches of time with one number each."""
    opens, closes = span.period.service_start, span.period.service_end
    begin = oracle.moment(span.subscription["from"], span.zone)
    charged_from, component = opens, oracle_dialect.component(span.plan)
    if "trial_days" in price:
        wall = oracle.local(begin, span.zone) + timedelta(days=int(price["trial_days"]))
        charged_from = max(opens, oracle.instant(wall, span.zone))
    cuts = units_at(price, span)
    if not price.get("prorate", True):
        held = max(units for at, units in during(cuts, opens, closes))
        free = share(span, opens, min(charged_from, closes)) if charged_from > opens else Fraction(0)
        return Decimal(held.numerator) / Decimal(held.denominator), component(
            cut(Fraction(str(price["amount"])) * held * max(Fraction(0), 1 - free))
        )
    exact, steps = Fraction(0), during(cuts, opens, closes)
    for (start, units), (end, _) in zip(steps, [*steps[1:], (closes, Fraction(0))], strict=True):
        free = share(span, start, min(charged_from, end)) if charged_from > start else Fraction(0)
        exact += component(
            cut(Fraction(str(price["amount"])) * units * max(Fraction(0), share(span, start, end) - free))
        )
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


def adjust(catalog: Row, spans: list[Span], before: list[Span] | None = None) -> None:
    """Lower and raise the lines of all spans, in place, and add true-up lines. Every period counts as over.

    `before` are all earlier spans, done already; without them each span has those before it.
    """
    from tests import oracle_pots

    discount(catalog, spans)
    done: list[Span] = [] if before is None else before
    for span in sorted(spans, key=lambda one: one.period.start):
        for one in sorted(span.plan.get("commitments", []), key=lambda one: (span.width(one), one["id"])):
            factor = Fraction(str(one.get("overage_factor", "1"))) - 1
            amount = promised(catalog, one, span)
            span.seen[one["id"]] = sum((line.exact for line in span.covered(one)), start=Fraction(0))
            mates = oracle_pots.mates(catalog, one, span, done)
            left = amount - sum((mate.seen[one["id"]] for mate in mates), start=Fraction(0))
            if one.get("share") == "pro_rata":
                beyond(span, one, left, factor)
            else:
                above(span, one, left, factor)
        for one in sorted(span.plan.get("maximums", []), key=lambda one: (span.width(one), one["id"])):
            lower(span, one, amount_of(one, span, prorate=False))
        true_up(catalog, span, done)
        if before is None:
            done.append(span)


def promised(catalog: Row, one: Row, span: Span) -> Fraction:
    from tests import oracle_pots

    pooled = oracle_pots.is_pot(one)
    return oracle_pots.amount_of(catalog, one, span) if pooled else amount_of(one, span, prorate=True, is_owed=True)


def above(span: Span, one: Row, amount: Fraction, factor: Fraction) -> None:
    """Each line bears the part of the excess that it makes, as the net runs up; a negative one gives some back.

    What is left of an amount may be below zero: then all of it is above, and as much as what pays back is no more.
    """
    running, component = Fraction(0), oracle_dialect.component(span.plan)
    for line in span.covered(one):
        before, running = max(Fraction(0), running - amount), running + line.exact
        line.exact += component(cut((max(Fraction(0), running - amount) - before) * factor))


def beyond(span: Span, one: Row, amount: Fraction, factor: Fraction) -> None:
    """What the factor adds is borne by the lines in ratio to what they are: whole minor units, then the rest of one."""
    component = oracle_dialect.component(span.plan)
    net = sum((line.exact for line in span.covered(one)), start=Fraction(0))
    added = cut((max(Fraction(0), net - amount) - max(Fraction(0), -amount)) * factor)
    bearing = [line for line in span.covered(one) if line.exact * added > 0]
    of_all = sum((line.exact for line in bearing), start=Fraction(0))
    minor = Fraction(1, 10 ** oracle.MINOR_DIGITS.get(span.plan["currency"], 2))
    parts = [abs(added) * line.exact / of_all for line in bearing]
    shares = [part // minor * minor for part in parts]
    left = abs(added) - sum(shares, start=Fraction(0))
    by_remainder = sorted(range(len(parts)), key=lambda at: shares[at] - parts[at])
    while left > 0:
        at = by_remainder.pop(0)
        shares[at] += min(left, minor)
        left -= min(left, minor)
    for line, part in zip(bearing, shares, strict=True):
        line.exact += component(part if added > 0 else -part)


def lower(span: Span, one: Row, amount: Fraction) -> None:
    """What the lines come to on paper above the maximum goes off the last of them, and then off the one before.

    Rounded lines against the rounded maximum; where each component is rounded, the exact maximum.
    """
    digits, component = oracle.MINOR_DIGITS.get(span.plan["currency"], 2), oracle_dialect.component(span.plan)
    by_component = oracle_dialect.answer(span.plan, "round_at") == "component"
    lines = span.covered(one)
    too_much = sum((rounded(line.exact, digits) for line in lines), start=Fraction(0))
    too_much -= amount if by_component else rounded(amount, digits)
    while lines and too_much > 0:
        line = lines.pop()
        on_paper = rounded(line.exact, digits)
        off = min(too_much, on_paper)
        if off > 0:
            line.exact += component(on_paper - off - line.exact)
            too_much -= off


def true_up(catalog: Row, span: Span, before: list[Span]) -> None:
    from tests import oracle_pots

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
        if oracle_pots.is_pot(one) and not oracle_pots.pot_of(catalog, one, span)[2]:
            continue
        covered = [
            *span.lines,
            *(line for mate in oracle_pots.mates(catalog, one, span, before) for line in mate.lines),
        ]
        paid = sum(
            (rounded(line.exact, digits) for line in covered if line.price_id in prices | inner), start=Fraction(0)
        )
        missing = rounded(promised(catalog, one, span), digits) - paid
        if oracle_dialect.answer(span.plan, "min_max_order") == "minimum_first":
            missing = min([missing, *below_caps(span, set(one.get("prices") or span.ids), done[:-1], digits)])
        if missing > 0:
            span.lines.append(Net(one["id"], (), [], Decimal(1), missing))


def below_caps(span: Span, prices: set[str], done: list[Row], digits: int) -> list[Fraction]:
    """Return what each maximum over these prices leaves; what was made up for within it counts too."""
    left = []
    for cap in span.plan.get("maximums", []):
        capped = set(cap.get("prices") or span.ids)
        if prices <= capped:
            inner = {other["id"] for other in done if set(other.get("prices") or span.ids) <= capped}
            used = [rounded(line.exact, digits) for line in span.lines if line.price_id in capped | inner]
            left.append(rounded(amount_of(cap, span, prorate=False), digits) - sum(used, start=Fraction(0)))
    return left


def rounded(value: Fraction, digits: int) -> Fraction:
    return Fraction(oracle.round_fraction(value, digits))


def discount(catalog: Row, spans: list[Span]) -> None:
    """Take the discounts off, one after the other; a fixed one off all lines of its pool at once."""
    steps: list[tuple[tuple[Any, ...], list[tuple[Row, Span]]]] = []
    pools: dict[tuple[Any, ...], list[tuple[Row, Span, int]]] = {}
    for span in spans:
        for owner, whose, listed, one in offered(catalog, span):
            if not holds(one, span):
                continue
            if "percent" in one:
                order = oracle_dialect.answer(span.plan, "discount_order")
                steps.append((place(owner, whose, one, order, listed), [(one, span)]))
            else:
                of = "" if owner == "account" else span.subscription["id"]
                same = (
                    owner,
                    whose,
                    of,
                    one["id"],
                    terms_of(one),
                    span.plan["currency"],
                    span.period.start,
                    span.period.end,
                )
                pools.setdefault(same, []).append((one, span, listed))
    for (owner, whose, *_), members in pools.items():
        orders = {oracle_dialect.answer(span.plan, "discount_order") for _, span, _ in members}
        order = orders.pop() if len(orders) == 1 else "percent_first"
        first = min(listed for _, _, listed in members)
        steps.append((place(owner, whose, members[0][0], order, first), [(one, span) for one, span, _ in members]))
    for _, members_ in sorted(steps, key=lambda step: step[0]):
        if "amount" in members_[0][0]:
            take(members_)
            continue
        for one, span in members_:
            for line in span.covered(one):
                taken = cut(max(Fraction(0), line.exact) * Fraction(str(one["percent"])) / HUNDRED)
                line.exact -= oracle_dialect.component(span.plan)(taken)


def terms_of(one: Row) -> tuple[str, ...]:
    return (*(str(Fraction(str(one.get(name, 0)))) for name in ("percent", "amount")), *one.get("prices", ()))


def place(owner: str, whose: str, one: Row, order: str, listed: int) -> tuple[Any, ...]:
    """Return where a discount stands among all: its scope, then its kind, then its id."""
    scope = 0 if one.get("prices") else 1 if owner != "account" or one.get("plans") else 2
    kind = {"percent_first": 2, "amount_first": 0, "listed": 1}[order] if "amount" in one else 1
    return scope, kind, listed if order == "listed" else 0, one["id"], owner, whose, terms_of(one)


def take(pool: list[tuple[Row, Span]]) -> None:
    """Share a fixed amount out over the lines that are worth something, to the minor unit; none falls below zero."""
    pool.sort(key=lambda row: (row[1].subscription["id"], row[1].period.service_start))
    lines = [(line, span) for one, span in pool for line in span.covered(one) if line.exact > 0]
    digits = oracle.MINOR_DIGITS.get(pool[0][1].plan["currency"], 2)
    amount, whole = Fraction(str(pool[0][0]["amount"])), sum((line.exact for line, _ in lines), start=Fraction(0))
    if amount >= whole:
        for line, _ in lines:
            line.exact = Fraction(0)
        return
    ways = {oracle_dialect.answer(span.plan, "residue") for _, span in pool}
    shares = shared_out(ways.pop() if len(ways) == 1 else "largest_remainder", amount, whole, digits, lines)
    for (line, span), one in zip(lines, shares, strict=True):
        line.exact -= oracle_dialect.component(span.plan)(max(Fraction(0), min(line.exact, one)))


def shared_out(
    way: str, amount: Fraction, whole: Fraction, digits: int, lines: list[tuple[Net, Span]]
) -> list[Fraction]:
    """Return the share of each line: floors and largest remainders, or each rounded by itself."""
    nets = [line.exact for line, _ in lines]
    if way == "five_decimals":
        return [rounded(amount * net / whole, digits + 5) for net in nets]
    if way == "largest_line":
        shares = [rounded(amount * net / whole, digits) for net in nets]
        shares[nets.index(max(nets))] += rounded(amount, digits) - sum(shares, start=Fraction(0))
        return shares
    units = rounded(amount, digits) * 10**digits
    wanted = [units * net / whole for net in nets]
    given = [math.floor(one) for one in wanted]
    for at in sorted(range(len(lines)), key=lambda at: given[at] - wanted[at])[: int(units - sum(given))]:
        given[at] += 1
    return [Fraction(one, 10**digits) for one in given]


def offered(catalog: Row, span: Span) -> list[tuple[str, str, int, Row]]:
    """Return the discounts that are offered to a span: whose each is, its place in the list it stands in, and itself."""
    tenant, payer = span.subscription["tenant"], span.subscription.get("account")
    found = [("plan", span.plan["name"], one) for one in span.plan.get("discounts", [])]
    for account in catalog.get("accounts", []):
        if account["id"] == payer or (payer is None and tenant in account["tenants"]):
            found += [("account", account["id"], one) for one in account.get("discounts", [])]
    found += [("subscription", span.subscription["id"], one) for one in span.subscription.get("discounts", [])]
    places: dict[tuple[str, str], int] = {}
    numbered = []
    for owner, whose, one in found:
        listed = places.setdefault((owner, whose), 0)
        places[owner, whose] += 1
        numbered.append((owner, whose, listed, one))
    return numbered


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
