"""What stands around the prices of `peers.jsonl`: discounts, promised amounts, limits, prepaid balances and taxes.

Amounts are on paper there: every line is rounded once, in its currency. What is within a promised amount is what a
maximum of the same amount leaves of the same lines, and so the engine is asked for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from rating.allocation import carry_residue
from rating.balances import Balance, Burned, balance_states
from rating.plans import Plan
from rating.spans import plan_key
from rating.tax import FixedRates, TaxedInvoice, TaxRate, tax_invoice
from rating.thresholds import thresholds_passed
from tests.conformance import ask
from tests.conformance.cases import NOT_OURS, Answer, Asked, Unsupported
from tests.conformance.peers_books import (
    START,
    Books,
    by_price,
    flat,
    invoice,
    one_each,
    sold,
    total,
)

ZERO = Decimal(0)
REFUSED = {"error": "refused"}
# A currency for each size of the minor unit.
CURRENCIES = {Decimal(1): "JPY", Decimal("0.01"): "USD", Decimal("0.001"): "KWD"}
LAST_PRIORITY = 1000
# In the billing period after the first.
NEXT = datetime(2026, 2, 1, tzinfo=UTC)


def _sum(amounts: Sequence[Decimal]) -> Decimal:
    return sum(amounts, ZERO)


def _flats(amounts: Sequence[object]) -> list[dict[str, Any]]:
    return [flat(f"line-{number}", amount) for number, amount in enumerate(amounts)]


def _ids(prices: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(price["id"]) for price in prices]


def coupons(asked: Asked) -> dict[str, Any]:
    """Discounts on one line. Percents come before fixed amounts, equals in the order of their ids."""
    start, discounts = Decimal(str(asked("start"))), []
    for number, row in enumerate(asked.rows("coupons")):
        percent, fixed = row("percent"), row("fixed")
        taken = {"amount": str(fixed)} if percent is None else {"percent": str(percent)}
        discounts += [{"id": f"coupon-{number:03}", **taken}] if Decimal(str(percent or fixed)) else []
    lines = Books().book(sold(_flats([start]), currency=asked("currency", "USD"), discounts=discounts))
    (final,) = by_price(lines, ["line-0"])
    return {"discount": start - final, "final": final}


def distribute(asked: Asked) -> dict[str, Any]:
    """A fixed discount over several lines, never more than they are worth."""
    prices, amount = _flats(asked("items", [])), Decimal(str(asked("discount", "0")))
    discounts = [{"id": "discount", "amount": str(amount)}] if amount else []
    lines = Books().book(sold(prices, currency=asked("currency", "USD"), discounts=discounts))
    return {"net": by_price(lines, _ids(prices))}


def orb_adjust(asked: Asked) -> dict[str, Any]:
    """Percent off a line, then at least, then at most so much."""
    percent, limits = Decimal(str(asked("percent_off", "0"))), {}
    for name in ("min", "max"):
        if asked(name) is not None:
            limits[f"{name}imums"] = [{"id": f"{name}imum", "amount": str(asked(name))}]
    discounts = [{"id": "discount", "percent": str(percent)}] if percent else []
    terms = {"discounts": discounts, "switches": {"min_max_order": "minimum_first"}, **limits}
    catalog = sold(_flats([asked("subtotal")]), currency=asked("currency", "USD"), **terms)
    try:
        lines = Books().book(catalog)
    except ask.Refused:
        return REFUSED
    parts = [part for line in lines for part in line.components if part.part in {"flat", "discount:discount"}]
    return {"after_discount": _sum([part.exact_amount for part in parts]), "amount": total(lines)}


def _promised(asked: Asked, **more: Any) -> list[dict[str, Any]]:
    terms = {"overage_factor": str(asked("factor", "1")), "true_up": bool(asked("true_up"))}
    return [{"id": "promise", "amount": str(asked("commit")), **terms, **more}]


def _at_most(promised: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return maximums of the amounts that are promised."""
    return [{name: one[name] for name in ("id", "amount", "prices") if name in one} for one in promised]


def _used(amounts: Sequence[object]) -> list[dict[str, Any]]:
    return [
        ask.event(amount, row=row, price=f"line-{row}") for row, amount in enumerate(amounts) if Decimal(str(amount))
    ]


def commit_in_order(asked: Asked) -> dict[str, Any]:
    """What is promised is used up line by line; beyond it the lines are dearer."""
    used, promised = _used(asked("lines", [])), _promised(asked)
    prices = [one_each(f"line-{number}") for number in range(len(asked("lines", [])))]
    lines = by_price(Books().book(sold(prices, commitments=promised), used), _ids(prices))
    within = by_price(Books().book(sold(prices, maximums=_at_most(promised)), used), _ids(prices))
    return {"amount": _sum(lines), "lines": [[one, line - one] for one, line in zip(within, lines, strict=True)]}


def commit_cumulative(asked: Asked) -> dict[str, Any]:
    """One pot over two billing periods, shared in proportion: what was used before in the first, the lines in the second."""
    asked("round")  # Of the parts within, which the lines on paper show anyway.
    prior, factor = Decimal(str(asked("prior", "0"))), Decimal(str(asked("factor", "1")))
    nets, promised = asked("lines", []), _promised(asked, periods=2, share="pro_rata")
    prices = [one_each("before"), *(one_each(f"line-{number}") for number in range(len(nets)))]
    before = [ask.event(prior, START, -1, price="before")] if prior else []
    now = [{**event, "event_time": NEXT} for event in _used(nets)]
    lines = Books().book(sold(prices, commitments=promised), [*before, *now], month="2026-02")
    costs = zip((Decimal(str(net)) for net in nets), by_price(lines, _ids(prices)[1:]), strict=True)
    # A line costs what is within and so many times the rest.
    within = [net if factor == 1 else (factor * net - cost) / (factor - 1) for net, cost in costs]
    return {"amount": total(lines), "within": within}


def commit_windows(asked: Asked) -> dict[str, Any]:
    """Windows of use, each with a price and a promise of its own; those without a promise cost what they cost."""
    prices, promised, events = [], [], []
    for number, row in enumerate(asked.rows("windows")):
        name, quantity = f"window-{number}", Decimal(str(row("qty", "0")))
        prices.append(one_each(name, type="unit", unit_price=str(row("unit"))))
        events += [ask.event(quantity, row=number, price=name)] if quantity else []
        terms = row("commit"), row("factor"), row("true_up")
        if terms[0] is not None:
            (promise,) = _promised(row, prices=[name])
            promised.append({**promise, "id": f"promise-{number}"})
    base = flat("base", asked("base", "0"))
    lines = Books().book(sold([base, *prices], commitments=promised), events)
    limited = Books().book(sold([base, *prices], maximums=_at_most(promised)), events)
    windows, within = (_sum(by_price(some, _ids(prices))) for some in (lines, limited))
    true_up = _sum(by_price(lines, [one["id"] for one in promised]))
    return {"amount": total(lines), "utilized": within, "overage": windows - within, "true_up": true_up}


def wallets(asked: Asked) -> dict[str, Any]:
    """Prepaid balances in their order, which pay what was used and no fixed line. One in parts of a cent is refused."""
    currency, prices, events = _currency(asked("quantum", "0.01")), [], []
    for number, row in enumerate(asked.rows("lines")):
        kind, net = row("kind", "usage"), Decimal(str(row("net")))
        if kind not in {"usage", "fixed"}:
            raise Unsupported(f"line of kind {kind}")
        is_usage, name = kind == "usage", f"{kind}-{number}"
        prices.append(one_each(name) if is_usage else flat(name, net))
        events += [ask.event(net, row=number, price=name)] if is_usage and net else []
    # Also where no line is of use a balance is limited to such prices.
    paid = ["usage", *(name for name in _ids(prices) if name.startswith("usage-"))]
    named = {f"balance-{number}": (name, amount) for number, (name, amount) in enumerate(asked("wallets", []))}
    balances = [
        {"id": key, "currency": currency, "amount": amount, "priority": number, "prices": paid}
        for number, (key, (_, amount)) in enumerate(named.items())
        if Decimal(str(amount))
    ]
    try:
        made = invoice(sold(prices, currency=currency), events, balances)
    except ask.Refused:
        return REFUSED
    debits: dict[str, Decimal] = {}
    for one in made.prepaid if made else ():
        name, _ = named[one.balance_id]
        debits[name] = debits.get(name, ZERO) + one.amount
    return {"applied": _sum(list(debits.values())), "debits": debits}


def _currency(quantum: object) -> str:
    size = Decimal(str(quantum))
    if size not in CURRENCIES:
        raise Unsupported("quantum")
    return CURRENCIES[size]


def burn_blocks(asked: Asked) -> dict[str, Any]:
    """Prepaid balances that pay one line: by priority where it is asked for, then by expiry, then as they stand."""
    order = asked("order", [])
    unknown = set(order) - {"priority", "expires", "cost_basis"}
    if unknown:
        raise Unsupported(f"burn order {min(unknown)}")
    named, balances = {}, []
    for number, row in enumerate(asked.rows("blocks")):
        key, priority, expires, _ = f"balance-{number:03}", row("priority"), row("expires"), row("cost_basis")
        named[key] = row("id")
        balance = {"id": key, "currency": "USD", "amount": str(row("amount")), "expires": expires}
        if "priority" in order:
            balance["priority"] = LAST_PRIORITY if priority is None else priority
        balances.append(balance)
    # The line serves a time in which all of them are valid.
    catalog = sold([one_each("use")], on=[{"from": "2001-01-01", "to": "2001-02-01"}])
    used = ask.event(asked("need"), datetime(2001, 1, 1, tzinfo=UTC), price="use")
    made = invoice(catalog, [used], balances, month="2001-01")
    return {"debits": {named[one.balance_id]: one.amount for one in made.prepaid} if made else {}}


def cost_basis(asked: Asked) -> dict[str, Any]:
    """Revenue is recognized as money is burned: its share of what was paid. The amount per unit is for display."""
    terms = {"id": "granted", "account": "account", "currency": asked("currency", "USD"), "effective": "2026-01-01"}
    balance = Balance.model_validate({**terms, "amount": str(asked("granted")), "paid": str(asked("paid"))})
    key = ("s", START, START, "USD", "price", "")
    burned = {"account": [Burned(key, "granted", Decimal(str(asked("burned"))))]}
    (state,) = balance_states([balance], burned, START)
    return {"revenue": state.recognized, "per_unit": NOT_OURS}


def _taxed(catalog: dict[str, Any], percents: Sequence[object], balances: Sequence[Mapping[str, Any]] = ()) -> Any:
    """Return the invoice with its taxes, each rate with a name of its own; none where nothing is due."""
    made = invoice(catalog, (), balances)
    if made is None:
        return None
    rates = [TaxRate(f"tax {number}", Decimal(str(percent))) for number, percent in enumerate(percents)]
    plan = Plan.model_validate(catalog["plans"][0])
    taxed = tax_invoice(made, {plan_key(plan.name, plan.version): plan}, FixedRates({}, rates))
    return made, taxed


def tax(asked: Asked) -> dict[str, Any]:
    """Several taxes on one amount: each is a tax of its own, rounded once per invoice."""
    found = _taxed(sold(_flats([asked("base")]), currency=asked("currency", "USD")), asked("rates", []))
    taxed: TaxedInvoice | None = found and found[1]
    return {"tax": taxed.tax if taxed else ZERO}


def pipeline(asked: Asked) -> dict[str, Any]:
    """Discounts of lines, a discount of the invoice, tax on what is left, and prepaid money that pays last."""
    currency, prices = asked("currency", "USD"), _flats(asked("lines", []))
    discounts = [
        {"id": f"discount-{number}", "percent": str(percent), "prices": [f"line-{number}"]}
        for number, percent in asked("line_percent_off", {}).items()
        if Decimal(str(percent))
    ]
    fixed, prepaid = Decimal(str(asked("invoice_fixed_off", "0"))), Decimal(str(asked("credits", "0")))
    discounts += [{"id": "discount", "amount": str(fixed)}] if fixed else []
    balances = [{"id": "credits", "currency": currency, "amount": str(prepaid)}] if prepaid else []
    found = _taxed(sold(prices, currency=currency, discounts=discounts), [asked("tax", "0")], balances)
    if found is None:
        return {"total": ZERO, "tax": ZERO}
    made, taxed = found
    return {"total": made.amount_due + taxed.tax, "tax": taxed.tax}


def threshold_invoices(asked: Asked) -> dict[str, Any]:
    """An invoice whenever what is open passes the threshold again; it is an early cut and nothing else."""
    terms, every = ask.price(type="unit", unit_price=str(asked("unit"))), Decimal(str(asked("threshold")))
    books, events, made = Books(), [], []
    for row, batch in enumerate(asked("batches", [])):
        events.append(ask.event(batch, row=row))
        (open_line,) = Books().book(sold([terms]), events)
        if thresholds_passed((), every, _sum(made), open_line.amount):
            made += [line.amount for line in books.book(sold([terms]), events)]
    rest = [line.amount for line in books.book(sold([terms]), events)]
    return {"invoices": made, "open": _sum(rest)}


def carry(asked: Asked) -> dict[str, Any]:
    """Amounts for a destination that takes whole units only: what is left over is carried, not cut."""
    unit, sent, given = Decimal(str(asked("unit"))), ZERO, ZERO
    left = cut = ZERO
    for amount in asked("amounts", []):
        given += Decimal(str(amount))
        now, left = carry_residue(given, sent, unit)
        sent += now
        cut += carry_residue(Decimal(str(amount)), ZERO, unit)[0]
    return {"reported_without_carry": cut / unit, "reported_with_carry": sent / unit, "remainder": left}


def to_units(asked: Asked) -> dict[str, Any]:
    """An amount as a number of the destination's units, whole ones only."""
    unit = Decimal(str(asked("unit")))
    return {"units": carry_residue(Decimal(str(asked("amount"))), ZERO, unit)[0] / unit}


ANSWERS: dict[str, Answer] = {
    "coupons": coupons,
    "distribute": distribute,
    "orb_adjust": orb_adjust,
    "commit_in_order": commit_in_order,
    "commit_cumulative": commit_cumulative,
    "commit_windows": commit_windows,
    "wallets": wallets,
    "burn": burn_blocks,
    "cost_basis": cost_basis,
    "tax": tax,
    "pipeline_fp": pipeline,
    "threshold_invoices": threshold_invoices,
    "carry": carry,
    "to_units": to_units,
}
