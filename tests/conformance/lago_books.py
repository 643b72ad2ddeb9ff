"""The part of the reader of `lago.jsonl` that asks what is booked, credited, taxed and paid in advance.

Amounts there are cents; ours are money. An early invoice there is a cut of ours, an event charged in advance a cut after
the event, and a credit note what a booking takes back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from metering.periods import CALENDAR_ANCHOR, BillingCycle, zone
from rating.balances import Balance, balance_states
from rating.plans import Plan
from rating.spans import plan_key
from rating.tax import FixedRates, TaxedInvoice, TaxRate, tax_invoice
from rating.thresholds import thresholds_ahead, thresholds_passed
from tests.conformance import ask
from tests.conformance.cases import Agrees, Answer, Asked, Unsupported
from tests.conformance.peers_books import Books, flat, invoice, of_events, one_each, paper, sold
from tests.rated import AFTER_ALL

CENTS = Decimal(100)
ZERO = Decimal(0)
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
# A full period of so many days in UTC: how long it is, and when it begins.
FULL_PERIODS = {
    1: ("day", date(2026, 1, 1)), 7: ("week", date(2026, 1, 5)), 28: ("month", date(2026, 2, 1)),
    29: ("month", date(2028, 2, 1)), 30: ("month", date(2026, 4, 1)), 31: ("month", date(2026, 1, 1)),
    90: ("quarter", date(2026, 1, 1)), 91: ("quarter", date(2026, 4, 1)), 92: ("quarter", date(2026, 7, 1)),
    365: ("year", date(2026, 1, 1)), 366: ("year", date(2028, 1, 1)),
}  # fmt: skip
SAFE = {"carries": "amount", "price_attribute": "price", "type": "dynamic"}


def money(cents: object) -> str:
    return f"{Decimal(str(cents)) / CENTS:f}"


def full_period(days: int, used: int) -> tuple[dict[str, Any], dict[str, str], str]:
    """Return the billing period of so many days, a subscription that runs for `used` of them, and the month of its end."""
    if days not in FULL_PERIODS or not 0 < used <= days:
        raise Unsupported("days_full")
    every, start = FULL_PERIODS[days]
    ends = start + used * DAY
    month = f"{start + (days - 1) * DAY:%Y-%m}"
    return {"billing_period": {"every": every}}, {"from": start.isoformat(), "to": ends.isoformat()}, month


def taxed(
    catalog: Mapping[str, Any], percents: Sequence[object], level: Any = "invoice", but: str | None = None
) -> TaxedInvoice:
    """Return the taxes of the invoice of what was booked last, `but` the lines of one price. Each percent is its own tax."""
    made = paper()
    if made is not None and but is not None:
        made = replace(made, lines=tuple(line for line in made.lines if line.price_id != but))
    rates = [TaxRate(f"tax {number}", Decimal(str(percent))) for number, percent in enumerate(percents)]
    plan = Plan.model_validate(catalog["plans"][0])
    if made is None:
        return TaxedInvoice("none", plan.currency, ())
    return tax_invoice(made, {plan_key(plan.name, plan.version): plan}, FixedRates({}, rates), level=level)


def with_tax(amount: Decimal, percent: object) -> Decimal:
    """Return what one amount comes to with a tax, in cents."""
    catalog = sold([flat("fee", f"{amount:f}")])
    Books().book(catalog)
    return taxed(catalog, [percent]).gross * CENTS


def adjusted_fee(asked: Asked) -> dict[str, Any]:
    """Other units, or another unit price, of one draft: the subscription holds so many units, at a price of its own."""
    shown = asked("adjusted_unit_cents", asked("fee_cents"))
    terms = flat("fee", money(asked("fee_cents", "0")), per_unit_of="units")
    on = {"quantities": {"units": str(asked("adjusted_units", "1"))}, "overrides": {"fee": {"amount": money(shown)}}}
    (line,) = Books().book(sold([terms], on=[on]))
    (unit,) = line.components
    return {"fee_cents": line.amount * CENTS, "unit_amount": unit.unit_price}


def dynamic(asked: Asked) -> dict[str, Any]:
    """Events that carry their amount. In order: what all of them so far cost; in groups: what each group costs."""
    currency, terms = asked("currency", "EUR"), ask.price(**SAFE)
    rows = asked("events_in_order") or asked("events", [])
    events = [
        ask.event(row["units"], row=at, price=money(row["precise_amount_cents"]), group=row.get("group"))
        for at, row in enumerate(rows)
    ]
    if "events_in_order" not in asked:
        lines = of_events({**terms, "by": ["group"]}, events)
        groups = {row["group"]: f'{{"group":"{row["group"]}"}}' for row in rows}
        amounts = {name: ask.rounded(lines[key].exact_amount, currency) * CENTS for name, key in groups.items()}
        return {"groups": amounts, "total_amount_cents": sum(amounts.values(), ZERO)}
    rated = [of_events(terms, events[: count + 1])[""] for count in range(len(events))]
    return {
        "cumulative_amount_cents": [ask.rounded(one.exact_amount, currency) * CENTS for one in rated],
        "cumulative_units": [one.quantity for one in rated],
    }


def credit_note(asked: Asked) -> dict[str, Any]:
    """What was paid for and is not used any more, or what an amount was too high, comes back with its tax."""
    percents = [asked("tax_rate_pct", "0")]
    books = Books()
    if "credited_net_cents" in asked:
        paid, back = Decimal(asked("fee_cents")), Decimal(asked("credited_net_cents"))
        before, after, month = sold([flat("fee", money(paid))]), sold([flat("fee", money(paid - back))]), "2026-01"
    else:
        days, unused = int(asked("days_full")), int(asked("unused_days"))
        prices = [flat("plan", money(asked("plan_cents")))]
        cycle, whole, month = full_period(days, days)
        before = sold(prices, on=[whole], **cycle)
        after = sold(prices, on=[full_period(days, days - unused)[1]], **cycle)
    books.book(before, month=month)
    books.book(after, month=month)
    made = taxed(after, percents)
    return {"net_cents": -made.net * CENTS, "tax_cents": -made.tax * CENTS, "total_cents": -made.gross * CENTS}


def day_count(asked: Asked) -> dict[str, Any]:
    """Whole days of a zone. Their end is the last second of a day; an end at a midnight is read as an open one."""
    timezone = asked("timezone", "UTC")
    start, end = (datetime.fromisoformat(asked(name)).replace(tzinfo=UTC) for name in ("from_utc", "to_utc"))
    if end.astimezone(zone(timezone)).time() != CALENDAR_ANCHOR.time():
        end += SECOND
    days = BillingCycle("day", CALENDAR_ANCHOR, timezone)
    return {"days": days.number_at(end) - days.number_at(start)}


def _advance_terms(asked: Asked) -> dict[str, Any]:
    """Return the price of a case in which every event is charged at once."""
    if "tiers" in asked:
        tiers = []
        for row in asked.rows("tiers"):
            row("from")
            tiers.append(ask.tier(row("to"), row("per_unit"), row("flat")))
        terms = ask.price(type="graduated", tiers=tiers)
    elif "package_size" in asked:
        size, amount = str(asked("package_size")), str(asked("package_price"))
        terms = ask.price(type="package", package_size=size, package_price=amount)
        terms |= {"included": str(asked("free_units"))} if asked("free_units") else {}
    elif "rate_pct" in asked:
        terms = ask.price(type="percentage", percent=str(asked("rate_pct")))
        for ours, theirs in (
            ("fixed_amount", "fixed_per_event"), ("free_events", "free_events"), ("free_units", "free_units_total"),
            ("event_minimum", "per_event_min"), ("event_maximum", "per_event_max"),
        ):  # fmt: skip
            if asked(theirs) is not None and Decimal(str(asked(theirs))):
                terms[ours] = str(asked(theirs))
    else:
        terms = ask.price(type="unit", unit_price=str(asked("unit_price")))
    return {**terms, "cut": "any"}


def pay_in_advance(asked: Asked) -> dict[str, Any]:
    """A cut after each event: what all of them are worth so far, minus what was booked before."""
    terms, rows = _advance_terms(asked), asked("events_in_order") or ["1"] * int(asked("event_count", 0))
    apart = timedelta(0) if asked("same_timestamp") else SECOND
    by_key = any(isinstance(row, Mapping) for row in rows)
    meter: dict[str, Any] = {"aggregation": asked("aggregation", "sum")}
    if by_key:
        meter = {"aggregation": "unique_count", "unique_attribute": "unit", "operation_attribute": "operation"}
        events = [
            ask.event(1, ask.PERIOD[0] + at * apart, at, unit=row["key"], operation=row.get("op", "add"))
            for at, row in enumerate(rows)
        ]
    else:
        meter |= {} if "rate_pct" in asked else {"negative_allowed": True}
        events = [ask.event(row, ask.PERIOD[0] + at * apart, at) for at, row in enumerate(rows)]
    books, catalog, amounts, units = Books(), sold([terms], meter=meter), [], []
    for count in range(len(events)):
        lines = books.book(catalog, events[: count + 1])
        amounts.append(sum((line.amount for line in lines), ZERO) * CENTS)
        units.append(sum((one.quantity for line in lines for one in line.components if one.part == "unit"), ZERO))
    return {"fee_cents": amounts, "fee_cents_sorted": sorted(amounts), "fee_units": units}


def progressive(asked: Asked) -> dict[str, Any]:
    """An early invoice whenever the open use passes a threshold; the last one books what is left, and the plan's fee."""
    fixed = tuple(Decimal(money(one)) for one in asked("fixed_thresholds_cents", []))
    recurring = asked("recurring_threshold_cents")
    every = None if recurring is None else Decimal(money(recurring))
    use = ask.price(type="unit", unit_price=str(asked("unit_price")))
    plan = flat("plan", money(asked("plan_cents")), when="in_arrears")
    ends = {} if asked("upgraded_day") is None else {"to": f"2026-01-{int(asked('upgraded_day')):02}"}
    catalog, books, events, made = sold([plan, use], on=[ends]), Books(), [], []
    while_open = ask.PERIOD[1] - DAY
    for at, quantity in enumerate(asked("events", [])):
        events.append(ask.event(quantity, row=at))
        worth = sum((line.amount for line in Books().book(catalog, events, as_of=while_open)), ZERO)
        if thresholds_passed(fixed, every, sum(made, ZERO), worth):
            made.append(sum((line.amount for line in books.book(catalog, events, as_of=while_open)), ZERO))
    rest = sum((line.amount for line in books.book(catalog, events)), ZERO)
    booked = sum(made, ZERO)
    fees = sum((line.amount for line in Books().book(catalog, events)), ZERO)
    last = {"fees_cents": fees * CENTS, "credit_cents": booked * CENTS, "total_cents": rest * CENTS}
    early = [amount * CENTS for amount in made]
    return {"progressive_invoice_cents": early, "period_invoice": last, "final_invoice": last}


def completion(asked: Asked) -> dict[str, Any]:
    """How far an amount is on its way to the thresholds: those that are reached, and the next one."""
    fixed = tuple(Decimal(str(one)) for one in asked("fixed", []))
    every, total = asked("recurring"), Decimal(str(asked("total")))
    steps = thresholds_ahead(fixed, None if every is None else Decimal(str(every)), total)
    ahead = [step for step in steps if step.ratio < 1]
    following = ahead[0] if ahead else None
    return {
        "ratios": [step.ratio for step in steps],
        "reached_at": [step.amount for step in steps if step.ratio == 1],
        "next": following and following.amount,
        "next_ratio": following and following.ratio,
    }


def progressive_credit(asked: Asked) -> dict[str, Any]:
    """What the last invoice of a period takes off its fees: all that earlier ones booked of them, as far as they go."""
    progressive = asked("progressive_fees_cents")
    fees = progressive if isinstance(progressive, list) else [progressive]
    final = asked("matching_fee_cents", fees[-1])
    books, booked = Books(), ZERO
    for fee in fees:
        books_now = books.book(sold([one_each("use")]), [ask.event(money(fee), price="use")])
        booked += sum((line.amount for line in books_now), ZERO)
    last = books.book(sold([one_each("use")]), [ask.event(money(final), price="use")])
    given_back = sum((line.amount for line in last if line.amount < 0), ZERO)
    return {"credit_cents": (booked + given_back) * CENTS}


def tax(asked: Asked) -> dict[str, Any]:
    """Taxes on what coupons leave of some fees."""
    fees = asked("fees_cents", []) or [asked("fee_cents")]
    coupons = {f"coupon-{at:03}": Decimal(str(cents)) for at, cents in enumerate(asked("coupons_cents", []))}
    catalog = sold(
        [flat(f"fee-{at}", money(fee)) for at, fee in enumerate(fees)],
        discounts=[{"id": key, "amount": money(cents)} for key, cents in coupons.items() if cents],
    )
    lines = Books().book(catalog)
    percents = asked("tax_pct", [])
    made = taxed(catalog, percents)
    return {
        "coupon_per_fee": [_taken(line.components) for line in lines],
        "tax_cents": made.tax * CENTS,
        "rate_pct": sum((rate.percent for line in made.lines for rate, _ in line.taxes), ZERO)
        / max(len(made.lines), 1),
    }


def _taken(components: Sequence[Any]) -> Decimal:
    """Return what discounts take off a line, in cents."""
    return -sum((one.exact_amount for one in components if one.part.startswith("discount:")), ZERO) * CENTS


def coupons_in_order(asked: Asked) -> dict[str, Any]:
    """Coupons one after the other, each over its fees, then the taxes of each fee."""
    fees, percents = asked("fees_cents", []), asked("tax_pct", [])
    discounts = []
    for at, row in enumerate(asked.rows("coupons_in_order")):
        fixed, covered = row("cents"), row("fees", "all")
        terms = {"amount": money(fixed)} if fixed is not None else {"percent": str(row("percent"))}
        scope = {} if covered == "all" else {"prices": [f"fee-{number:03}" for number in covered]}
        discounts.append({"id": f"coupon-{at:03}", **terms, **scope})
    codes = {f"fee-{at:03}": str(percent) for at, percent in enumerate(percents)}
    prices = [flat(f"fee-{at:03}", money(fee), tax_code=codes.get(f"fee-{at:03}")) for at, fee in enumerate(fees)]
    catalog = sold(prices, discounts=discounts)
    lines = Books().book(catalog)
    made, plan = paper(), Plan.model_validate(catalog["plans"][0])
    if made is None:
        raise Unsupported("coupons of everything")
    rates = {code: [TaxRate(code, Decimal(code))] for code in percents}
    rated = [tax_invoice(made, {"plan/1": plan}, FixedRates(rates), level=level) for level in ("line", "invoice")]
    net = sum((line.amount for line in lines), ZERO) * CENTS
    total = sum((Decimal(str(fee)) for fee in fees), ZERO)
    return {
        "coupon_per_fee": [_taken(line.components) for line in lines],
        "tax_per_fee_cents": [line.tax * CENTS for line in rated[0].lines],
        "fees_total_cents": total, "coupons_cents": total - net, "net_cents": net,
        "tax_cents": rated[1].tax * CENTS, "total_cents": net + rated[1].tax * CENTS,
    }  # fmt: skip


def wallet(asked: Asked) -> dict[str, Any]:
    """Money bought in advance: what it costs, and what it is worth."""
    granted = Decimal(str(asked("paid_credits"))) * Decimal(str(asked("credit_value", "1")))
    terms = {"id": "bought", "account": "account", "currency": asked("currency", "EUR"), "effective": "2026-01-01"}
    try:
        balance = Balance.model_validate({**terms, "amount": f"{granted:f}", "paid": f"{granted:f}"})
    except ValidationError:
        return {"error": "refused"}
    (state,) = balance_states([balance], {}, ask.PERIOD[0])
    return {
        "credits": balance.amount,
        "invoice_cents": (balance.paid or ZERO) * CENTS,
        "balance_cents": state.left * CENTS,
    }


def wallet_allocation(asked: Asked) -> dict[str, Any]:
    """Prepaid balances in their order, which pay lines of the kinds that they are for: fees of the plan, or of use."""
    asked("invoice_cents")  # The fees and their taxes together.
    prices, events, taxes = [], [], []
    for at, row in enumerate(asked.rows("fees")):
        kind, cents = row("type", "subscription"), Decimal(str(row("cents")))
        taxes.append(row("tax_precise"))
        name = f"{kind}-{at}"
        prices.append(one_each(name) if kind == "charge" else flat(name, money(cents)))
        events += [ask.event(money(cents), row=at, price=name)] if kind == "charge" else []
    single = [{"name": "wallet", "balance": asked("wallet_balance")}] if "wallet_balance" in asked else []
    wallets = [*asked("wallets", []), *single]
    balances = []
    for at, one in enumerate(wallets):
        kinds = one.get("fee_types")
        scope = [price["id"] for price in prices if kinds and price["id"].split("-")[0] in kinds]
        if kinds and not scope:
            continue
        terms = {"id": f"wallet-{at:03}", "currency": "USD", "amount": money(one["balance"])}
        balances.append({**terms, "priority": int(one.get("priority", 0)), **({"prices": scope} if scope else {})})
    made = invoice(sold(prices), events, balances)
    used: dict[str, Decimal] = {}
    for one in made.prepaid if made else ():
        name = wallets[int(one.balance_id.rpartition("-")[2])]["name"]
        used[name] = used.get(name, ZERO) + one.amount * CENTS
    return {"used": used, "used_cents": sum(used.values(), ZERO)}


def minimum_of_a_change(asked: Asked) -> dict[str, Any]:
    """The share of a minimum that a subscription owes which ends at an instant, maybe the first of the next period."""
    start, end = (date.fromisoformat(asked(name)) for name in ("active_from", "period_end"))
    on = {"from": start.isoformat(), "to": f"{asked('terminated_at')}+00:00"}
    catalog = sold([one_each("use")], on=[on], minimums=[{"id": "minimum", "amount": "1"}])
    lines = Books().book(catalog, month=f"{end:%Y-%m}")
    return {"coefficient": sum((line.amount for line in lines), ZERO)}


def minimum_in_pricing_units(asked: Asked) -> dict[str, Any]:
    """A minimum in units that are worth some money each: the money is what counts, the units are the same in units."""
    rate, share = (
        Decimal(str(asked("conversion_rate"))),
        full_period(int(asked("days_full")), int(asked("days_billed"))),
    )
    minimum, used = (Decimal(money(asked(f"{name}_pricing_unit_cents"))) for name in ("minimum", "used"))
    cycle, on, month = share

    def missing(worth: Decimal) -> Decimal:
        terms = [{"id": "minimum", "amount": f"{minimum * worth:f}"}]
        catalog = sold([one_each("use", unit_price=f"{worth:f}", type="unit")], on=[on], minimums=terms, **cycle)
        use = ask.event(used, datetime.fromisoformat(on["from"]).replace(tzinfo=UTC), price="use")
        lines = Books().book(catalog, [use], month=month)
        return sum((line.amount for line in lines if line.price_id == "minimum"), ZERO) * CENTS

    return {"true_up_cents": missing(rate), "true_up_pricing_unit_cents": missing(Decimal(1))}


def minimum_at_the_end(asked: Asked) -> dict[str, Any]:
    """The last invoice of a subscription that ends: its use, what is missing of the minimum, and what was paid too much."""
    days, percents = int(asked("days_full")), [asked("tax_rate_pct", "0")]
    billed = int(asked("days_billed"))
    if days - billed != int(asked("unused_days", days - billed)):
        raise Unsupported("unused_days")
    cycle, whole, month = full_period(days, days)
    prices = [flat("plan", money(asked("plan_cents"))), one_each("use")]
    minimums = [{"id": "minimum", "amount": money(asked("minimum_cents")), "prices": ["use"]}]
    start = datetime.fromisoformat(whole["from"]).replace(tzinfo=UTC)
    use = [ask.event(money(asked("used_cents")), start, price="use")]
    books = Books()
    books.book(sold(prices, on=[whole], minimums=minimums, **cycle), month=month, as_of=start)
    catalog = sold(prices, on=[full_period(days, billed)[1]], minimums=minimums, **cycle)
    books.book(catalog, use, month=month, as_of=AFTER_ALL)
    made, by_line = taxed(catalog, percents), taxed(catalog, percents, "line")
    fees = taxed(catalog, percents, but="plan")
    whole_paper = paper()
    prices_of = {line.line_id: line.price_id for line in whole_paper.lines} if whole_paper else {}
    lines = {prices_of[line.line_id]: line for line in by_line.lines}
    back = lines["plan"]
    return {
        "true_up_cents": lines["minimum"].net * CENTS, "true_up_tax_cents": lines["minimum"].tax * CENTS,
        "usage_tax_cents": lines["use"].tax * CENTS, "fees_cents": fees.net * CENTS, "tax_cents": fees.tax * CENTS,
        "before_credit_cents": fees.gross * CENTS,
        "credit_note": {"net_cents": -back.net * CENTS, "tax_cents": -back.tax * CENTS, "total_cents": -back.gross * CENTS},
        "due_cents": made.gross * CENTS,
    }  # fmt: skip


def trial(asked: Asked) -> dict[str, Any]:
    """The first days of a plan are free; the rest of the period pays its share."""
    days = int(asked("days_full"))
    cycle, whole, month = full_period(days, days)
    price = flat("plan", money(asked("plan_cents")), trial_days=int(asked("trial_days")))
    (line,) = Books().book(sold([price], on=[whole], **cycle), month=month)
    exact = line.exact_amount * CENTS
    # Their figure of many digits went through a binary float; its last digits are none.
    precise = Agrees(lambda text: abs(Decimal(str(text)) - exact) < Decimal("1e-12"), str(exact))
    return {"fee_cents": line.amount * CENTS, "precise": precise}


ANSWERS: dict[str, Answer] = {
    "adjusted_fee": adjusted_fee,
    "charge_model.dynamic": dynamic,
    "credit_note": credit_note,
    "dates.day_count": day_count,
    "pay_in_advance": pay_in_advance,
    "progressive_billing": progressive,
    "progressive_billing.completion": completion,
    "progressive_billing.credit": progressive_credit,
    "tax": tax,
    "wallet": wallet,
    "wallet.allocation": wallet_allocation,
}
