"""The part of the reader of `openmeter.jsonl` that asks what a piece of a period books: discounts, caps, minimums, credits.

There a period is billed in splits, discounts stand on single components, and components are rounded one by one. Ours is
a cut after each piece, discounts and maximums are components of a whole line, and a line is rounded once. So components
are compared by what they are (kind, unit price, quantity, amount), and discounts, charges and credits by their sums.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from rating.allocation import allocate, allocate_capped
from rating.balances import Balance, burn
from rating.collection import Collected, collection_ends, next_collection
from tests.conformance import ask
from tests.conformance.cases import Agrees, Answer, Asked, Unsupported
from tests.conformance.openmeter import cycle, duration, instant, text, tier_price
from tests.oracle import Line
from tests.rated import Booked, Component
from tests.rating.test_balances import line as paper_line

MIDDLE, END = ask.PERIOD[0] + timedelta(days=15), ask.PERIOD[1]
ZERO = Decimal(0)
ROUNDING = {"ceiling": "ceil", "floor": "floor", "half_up": "half_up", "none": "none"}


@dataclass
class Piece:
    """What one cut booked: the line of the price with its components, and the true-up of its minimum."""

    line: Line = field(default_factory=lambda: Line(ZERO, ZERO, ZERO))
    components: Sequence[Component] = ()
    top_up: Decimal = ZERO


def sold(asked: Asked, inner: Asked, currency: str) -> dict[str, Any]:
    """Return the catalog of one price and what stands around it."""
    terms = tier_price(inner) if inner("type") != "dynamic" else None
    if terms is None:
        # There the event carries an amount that is multiplied: a unit price, whose unit is money.
        terms = ask.price(type="unit", unit_price=str(inner("multiplier", "1")))
    free = asked("free_units")
    if free is not None:
        terms["included"] = str(free)
    if asked("unit_conversion_enabled", True) and "unit_conversion" in asked:
        terms["convert"] = conversion(asked.inner("unit_conversion"))
    plan: dict[str, Any] = {}
    if inner("max_spend") is not None:
        plan["maximums"] = [{"id": "maximum", "amount": str(inner("max_spend"))}]
    ignores = asked.inner("options")("ignore_minimum", False) if "options" in asked else False
    if inner("min_spend") is not None and not ignores:
        plan["minimums"] = [{"id": "minimum", "amount": str(inner("min_spend"))}]
    percent = asked("percentage_discount")
    if "discounts" in asked:
        percent = asked.inner("discounts")("percentage")
    if percent is not None:
        plan["discounts"] = [{"id": "discount", "percent": str(percent)}]
    return ask.catalog([terms], currency=currency, plan=plan)


def conversion(asked: Asked) -> dict[str, Any]:
    rounding = ROUNDING[asked("rounding")]
    return {asked("op"): str(asked("factor")), "rounding": rounding, "places": str(asked("precision", 0))}


def pieces(catalog: dict[str, Any], cumulative: Sequence[tuple[Decimal, datetime]]) -> list[Piece]:
    booked, found = Booked(), []
    for quantity, as_of in cumulative:
        lines = booked.book(catalog, [ask.event(quantity)] if quantity else [], "2026-01", as_of)
        piece = Piece()
        for key, (line, components) in lines.items():
            if key[2] == "minimum":
                piece.top_up = line.amount
            else:
                piece.line, piece.components = line, components
        found.append(piece)
    return found


def lines_of(inner: Asked, piece: Piece, currency: str, credited: Decimal = ZERO) -> Agrees:
    """Return what is compared with the lines of an expectation."""
    kind, tiers = inner("type"), inner("tiers", [])
    priced = [one for one in piece.components if one.part in {"unit", "flat"}]
    # Where a tier does not say a unit price, there is no line for its units there.
    priced = [one for one in priced if not tiers or one.part == "flat" or tiers[one.tier - 1].get("unit") is not None]
    # A component that is the whole line is rounded with it; so its rounding error is repaid by the next piece.
    amounts = [ask.rounded(one.exact_amount, currency) for one in priced]
    if len(piece.components) == len(priced) == 1:
        amounts = [piece.line.amount]
    parts = Counter(
        (_kind(kind, one), one.unit_price, one.quantity, amount) for one, amount in zip(priced, amounts, strict=True)
    )
    total = piece.line.amount + piece.top_up - credited

    def agrees(expected: list[dict[str, Any]]) -> bool:
        numbers = {name: sum(Decimal(row[name]) for row in expected) for name in ("charge", "credit", "total")}
        if numbers != {"charge": piece.top_up, "credit": credited, "total": total}:
            return False
        if kind == "dynamic":
            return True
        rows = [row for row in expected if row["kind"] != "minimum_spend" and Decimal(row["amount"])]
        wanted = Counter(
            (row["kind"], *(Decimal(row[name]) for name in ("unit_price", "quantity", "amount"))) for row in rows
        )
        return wanted == +Counter({part: count for part, count in parts.items() if part[3]})

    return Agrees(agrees, f"{dict(parts)} total {total}, topped up {piece.top_up}, credited {credited}")


def _kind(price_type: str, component: Component) -> str:
    if price_type == "graduated":
        return f"tier{component.tier}_{component.part}"
    return f"tier_{component.part}" if price_type == "volume" else {"flat": "flat"}.get(price_type, "usage")


def pricing(asked: Asked) -> dict[str, Any]:
    """One piece of a period: what the cut at its end books, after a cut at its beginning unless it is the first."""
    inner, currency = asked.inner("price"), asked("currency", "USD")
    catalog = sold(asked, inner, currency)
    split, before = asked("split"), Decimal(asked("pre_quantity", "0"))
    # What was billed before is what our cut before books; the case says it for who cannot know.
    asked("previously_billed")
    after = (before + Decimal(asked("quantity", "0")), END if split in {"last", "whole"} else MIDDLE)
    cuts = [(before, MIDDLE), after] if split in {"middle", "last"} or before else [after]
    piece = pieces(catalog, cuts)[-1]
    granted = [Decimal(amount) for amount in asked("credits", [])]
    return {"lines": lines_of(inner, piece, currency, _burned(piece, granted))}


def _burned(piece: Piece, granted: Sequence[Decimal]) -> Decimal:
    """Return what prepaid balances of these amounts pay of a piece."""
    lines = [paper_line(1, piece.line.amount), paper_line(2, piece.top_up, "minimum")]
    terms = {"account": "account", "currency": "USD", "effective": "2026-01-01"}
    balances = [
        Balance.model_validate({"id": f"b{number}", "amount": str(amount), **terms})
        for number, amount in enumerate(granted)
    ]
    return sum((one.amount for one in burn(lines, balances, [])), ZERO)


def delta_rating(asked: Asked) -> dict[str, Any]:
    """Cumulative quantities, each booked, all of them as if the period were over."""
    inner, currency = asked.inner("price"), asked("currency", "USD")
    asked("last_run_is_final")
    catalog = sold(asked, inner, currency)
    runs = pieces(catalog, [(Decimal(quantity), END) for quantity in asked("cumulative_quantities")])
    return {"runs": [{"lines": lines_of(inner, piece, currency), "total": piece.line.amount} for piece in runs]}


def late_event_rating(asked: Asked) -> dict[str, Any]:
    """Runs, each with the cumulative quantity at the end of every piece so far; ours is the last of them."""
    inner, currency = asked.inner("price"), asked("currency", "USD")
    asked("last_run_is_final")
    asked("credits_applied_to_run_1")
    catalog = sold(asked, inner, currency)
    quantities = [Decimal(run[-1]) for run in asked("runs")]
    times = [MIDDLE if inner("min_spend") is not None else END] * (len(quantities) - 1) + [END]
    found = pieces(catalog, list(zip(quantities, times, strict=True)))
    return {"runs": [{"total": piece.line.amount + piece.top_up} for piece in found]}


def max_spend(asked: Asked) -> dict[str, Any]:
    unit_price = Decimal(asked("unit_price"))
    before = Decimal(asked("previously_billed")) / unit_price
    plan = {"maximums": [{"id": "maximum", "amount": str(asked("max_spend"))}]}
    terms = ask.price(type="unit", unit_price=str(unit_price))
    catalog = ask.catalog([terms], currency=asked("currency", "USD"), plan=plan)
    piece = pieces(catalog, [(before, MIDDLE), (before + Decimal(asked("quantity")), END)])[-1]
    gross = sum((one.exact_amount for one in piece.components if one.part == "unit"), ZERO)
    return {"discount": ask.rounded(gross, asked("currency", "USD")) - piece.line.amount}


def free_units(asked: Asked) -> dict[str, Any]:
    before, quantity = (Decimal(asked(name)) for name in ("pre_quantity", "quantity"))
    terms = ask.price(type="unit", unit_price="1", included=str(asked("free_units")))
    first, both = (ask.worth(terms, units) for units in (before, before + quantity))
    priced = [sum((one.quantity for one in rated.charges if one.part == "unit"), ZERO) for rated in (first, both)]
    return {
        "quantity": priced[1] - priced[0],
        "pre_quantity": priced[0],
        "free_applied": quantity - (priced[1] - priced[0]),
        "free_applied_before": before - priced[0],
    }


def unit_conversion(asked: Asked) -> dict[str, Any]:
    kind = asked("price_type", "unit")
    terms = ask.price(
        type=kind, **({"unit_price": "1"} if kind == "unit" else {"package_size": "1", "package_price": "1"})
    )
    try:
        terms["convert"] = conversion(asked)
        before, quantity = Decimal(asked("pre_quantity", "0")), Decimal(asked("quantity"))
        first, both = (ask.worth(terms, units).quantity for units in (before, before + quantity))
    except ask.Refused:
        return {"error": "invalid_unit_conversion"}
    return {"quantity": both - first, "pre_quantity": first}


def progressive_invoice(asked: Asked) -> dict[str, Any]:
    """Several prices in several cuts; an invoice that is deleted before its issue books nothing."""
    prices, plan, kinds = [], {"maximums": [], "minimums": []}, {}
    for row in asked.rows("lines"):
        inner, name = row.inner("price"), row("id")
        kinds[name] = inner
        terms = tier_price(inner) | {"id": name}
        prices.append(terms if terms["type"] == "flat" else terms | {"where": {"line": name}})
        for key, listed in (("max_spend", plan["maximums"]), ("min_spend", plan["minimums"])):
            if inner(key) is not None:
                listed.append({"id": f"{name}_{key}", "amount": str(inner(key)), "prices": [name]})
    catalog = ask.catalog(prices, plan=plan)
    booked, events, found = Booked(), [], []
    asked("period_hours")
    for cut in asked.rows("cuts"):
        for name, quantity in cut("usage_since_last").items():
            events.append(ask.event(quantity, row=len(events), line=name))
        as_of = END if cut("at_hour") == asked("period_hours") else MIDDLE
        # A draft books nothing, so a deleted one is asked of a copy.
        ledger = booked.copy() if cut("invoice_deleted_afterwards", False) else booked
        found.append(_invoice(ledger.book(catalog, events, "2026-01", as_of), kinds))
    return {"invoices": found}


def _invoice(lines: dict[Any, tuple[Line, list[Component]]], kinds: dict[str, Asked]) -> dict[str, Any]:
    by_price = {key[2]: line for key, line in lines.items()}
    answer: dict[str, Any] = {"total": sum((line.amount for line, _ in by_price.values()), ZERO)}
    answer["charge"] = sum((line.amount for name, (line, _) in by_price.items() if name.endswith("_min_spend")), ZERO)
    gross = [
        one.exact_amount for _, components in by_price.values() for one in components if not one.part.startswith("max")
    ]
    answer["amount"] = sum(gross, ZERO) - answer["charge"]
    answer["discount"] = answer["amount"] + answer["charge"] - answer["total"]
    for name, inner in kinds.items():
        line, components = by_price.get(name, (Line(ZERO, ZERO, ZERO), []))
        top_up = by_price[f"{name}_min_spend"][0].amount if f"{name}_min_spend" in by_price else ZERO
        if inner("type") == "flat":
            total = line.amount
            answer[name] = Agrees(
                lambda rows, total=total: [Decimal(row["total"]) for row in rows] == [total], str(total)
            )
        else:
            answer[name] = lines_of(inner, Piece(line, components, top_up), "USD")
    return answer


def collection_time(asked: Asked) -> dict[str, Any]:
    lines = [_collected(row) for row in asked.rows("lines")]
    lines = [line for line in lines if line is not None]
    if asked("stage") == "gathering":
        alignment = asked.inner("alignment")
        around = None
        if alignment("kind") == "anchored":
            if alignment("every") != "P1M":
                raise Unsupported("alignment.every")
            around = cycle("month", instant(alignment("anchor")))
        at = next_collection(lines, around)
        return {"next_collection_at": None if at is None else text(at)}
    ends = collection_ends(lines, _grace(asked("grace")))
    return {"collection_at": None if ends is None else text(ends)}


def _collected(asked: Asked) -> Collected | None:
    at, ends = instant(asked("invoice_at")), asked("collection_end")
    line = Collected(at, bool(asked("metered", False)), None if ends is None else instant(ends))
    return None if asked("deleted", False) else line


def allocation(asked: Asked) -> dict[str, Any]:
    """Shares of an amount by weight; `amount_capped` is a discount over amounts, which takes no more than there is."""
    items = asked.rows("items")
    keys, weights = [item("key") for item in items], [Decimal(item("weight")) for item in items]
    ties = keys if asked("tie_break") == "key" else None
    share = {"weight": allocate, "amount_capped": allocate_capped}[asked("method")]
    try:
        shares = share(Decimal(asked("amount")), weights, int(asked("decimals", 0)), ties=ties)
    except ValueError:
        return {"error": "invalid_weight"}
    return {"shares": [{"key": key, "amount": amount} for key, amount in zip(keys, shares, strict=True) if amount]}


def _grace(said: str) -> timedelta:
    length = duration(said)
    return timedelta(days=length["D"], hours=length["h"], minutes=length["m"], seconds=length["s"])


ANSWERS: dict[str, Answer] = {
    "pricing": pricing,
    "delta_rating": delta_rating,
    "late_event_rating": late_event_rating,
    "max_spend": max_spend,
    "free_units": free_units,
    "unit_conversion": unit_conversion,
    "progressive_invoice": progressive_invoice,
    "collection_time": collection_time,
    "allocation": allocation,
}
