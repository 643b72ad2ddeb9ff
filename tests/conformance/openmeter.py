"""The reader of `openmeter.jsonl`.

There a period is billed in splits: `split` is the piece (first, middle, last, whole), `pre_quantity` the units before
it. Ours is a cut after each piece, worth minus booked; flat amounts in arrears and volume prices wait for the end.
Lines there are components, rounded one by one; ours are components of one line, so a component is compared by its
exact amount unless it is the only one of its line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from metering.periods import BillingCycle
from rating.proration import share_of
from rating.rounding import round_amount
from tests.conformance import ask
from tests.conformance.ask import Component, Cut
from tests.conformance.cases import Answer, Asked, Unsupported

SECOND = timedelta(seconds=1)


def _tiers(asked: Asked) -> list[dict[str, Any]]:
    return [ask.tier(row("up_to"), row("unit"), row("flat")) for row in asked.rows("tiers")]


def _price(asked: Asked) -> dict[str, Any]:
    kind = asked("type")
    if kind == "flat":
        when = asked("term", "in_advance")
        return ask.price(type="flat", amount=str(asked("amount")), when=when)
    if kind == "unit":
        return ask.price(type="unit", unit_price=str(asked("unit_price")))
    if kind == "package":
        size, amount = str(asked("package_size")), str(asked("package_price"))
        return ask.price(type="package", package_size=size, package_price=amount)
    if kind in {"graduated", "volume"}:
        return ask.price(type=kind, tiers=_tiers(asked))
    raise Unsupported(f"price type {kind}")


def _kind(price_type: str, component: Component) -> str:
    if price_type == "graduated":
        return f"tier{component.tier}_{component.part}"
    if price_type == "volume":
        return f"tier_{component.part}"
    return "flat" if price_type == "flat" else "usage"


def _lines(asked: Asked, amount: Decimal, components: Sequence[Component]) -> list[dict[str, Any]]:
    """Return components as lines. Where a tier does not say a unit price, there is no line for its units there."""
    price_type, tiers = asked("type"), asked("tiers", [])
    components = [
        component
        for component in components
        if not tiers or component.part == "flat" or tiers[component.tier - 1].get("unit") is not None
    ]
    nothing = {"discount": Decimal(0), "charge": Decimal(0), "credit": Decimal(0)}
    amounts = [amount] if len(components) == 1 else [component.exact_amount for component in components]
    return [
        {
            "kind": _kind(price_type, component),
            "unit_price": component.unit_price,
            "quantity": component.quantity,
            "amount": amount,
            "total": amount,
            **nothing,
        }
        for component, amount in zip(components, amounts, strict=True)
    ]


def pricing(asked: Asked) -> dict[str, Any]:
    """One piece of a period: what the cut at its end books, after a cut at its beginning unless it is the first."""
    inner = asked.inner("price")
    terms = _price(inner)
    split, before = asked("split"), Decimal(asked("pre_quantity", "0"))
    asked("previously_billed")  # Only caps and minimums look at it; they are not supported.
    quantity = before + Decimal(asked("quantity", "0"))
    made = [Cut(quantity, at_end=split in {"last", "whole"})]
    if split in {"middle", "last"} or before:
        made.insert(0, Cut(before, at_end=False))
    amount, components = ask.cuts(terms, made, asked("currency", "USD"))[-1]
    return {"lines": _lines(inner, amount, components)}


def delta_rating(asked: Asked) -> dict[str, Any]:
    """Cumulative quantities, each booked. There components that are worth no money are left out, and tiers shrink."""
    inner = asked.inner("price")
    terms = _price(inner)
    asked("last_run_is_final")
    made = [Cut(Decimal(quantity)) for quantity in asked("cumulative_quantities")]
    runs = []
    for amount, components in ask.cuts(terms, made, asked("currency", "USD")):
        lines = [line for line in _lines(inner, amount, components) if line["total"]]
        runs.append({"lines": _in_order_of(inner("type"), lines), "total": amount})
    return {"runs": runs}


def _in_order_of(price_type: str, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # On paper there: by the name of the component; where one appears twice, the new terms before the reversal.
    if price_type == "graduated":
        return lines
    return sorted(lines, key=lambda line: (line["kind"], -line["quantity"]))


def graduated_total(asked: Asked) -> dict[str, Any]:
    terms = ask.price(type="graduated", tiers=_tiers(asked))
    return {"total": ask.worth(terms, asked("quantity"), asked("currency", "USD")).amount}


def graduated_steps(asked: Asked) -> dict[str, Any]:
    """The way from one quantity to another: the units that fall into each tier, and what was due before each."""
    tiers, currency = _tiers(asked), asked("currency", "USD")
    terms = ask.price(type="graduated", tiers=tiers)
    start, end = (Decimal(asked(name)) for name in ("from_quantity", "to_quantity"))
    before, after = (_units_by_tier(terms, quantity, currency) for quantity in (start, end))
    steps = []
    for number, units in after.items():
        if units == before.get(number, Decimal(0)):
            continue
        lower = Decimal(tiers[number - 2]["up_to"]) if number > 1 else Decimal(0)
        steps.append(
            {
                "tier_index": number - 1,
                "quantity": units - before.get(number, Decimal(0)),
                "starts_tier": number not in before,
                "cumulative_total_before": ask.worth(terms, max(start, lower), currency).amount
                if start or lower
                else 0,
            }
        )
    return {"steps": steps, "cumulative_total": ask.worth(terms, end, currency).amount}


def _units_by_tier(terms: dict[str, Any], quantity: Decimal, currency: str) -> dict[int, Decimal]:
    charges = ask.worth(terms, quantity, currency).charges
    return {charge.tier: charge.quantity for charge in charges if charge.part == "unit"}


def volume_tier_lookup(asked: Asked) -> dict[str, Any]:
    rated = ask.worth(ask.price(type="volume", tiers=_tiers(asked)), asked("quantity"))
    (number,) = {charge.tier for charge in rated.charges}
    return {"tier_index": number - 1}


def package_count(asked: Asked) -> dict[str, Any]:
    terms = ask.price(type="package", package_size=str(asked("package_size")), package_price="1")
    return {"packages": ask.worth(terms, asked("quantity")).exact_amount}


def rounding(asked: Asked) -> dict[str, Any]:
    if asked("mode") != "half_away_from_zero":
        raise Unsupported("rounding mode")
    return {"amount": round_amount(Decimal(asked("amount")), int(asked("decimals", 0)))}


def proration(asked: Asked) -> dict[str, Any]:
    """The share of a flat amount, as text of instants. A service period that does not fit its period is refused."""
    amount, currency = Decimal(asked("amount")), asked("currency", "USD")
    if not asked("enabled"):
        asked("service"), asked("full")
        return {"amount": ask.rounded(amount, currency)}
    service, full = ([_instant(text) for text in asked(name)] for name in ("service", "full"))
    lengths = [(end - start) // timedelta(microseconds=1) for start, end in (service, full)]
    try:
        return {"amount": ask.rounded(share_of(amount, *lengths), currency)}
    except (ValueError, ArithmeticError):
        return {"error": "refused"}


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def calendar_add(asked: Asked) -> dict[str, Any]:
    """A duration: years and months first, the day clamped, then weeks and days, then clock time."""
    end, length = _instant(asked("start")), _duration(asked("add"))
    for every, number in (("month", 12 * length["Y"] + length["M"]), ("week", length["W"]), ("day", length["D"])):
        end = _cycle(every, end).boundary(number)
    end += timedelta(hours=length["h"], minutes=length["m"], seconds=length["s"])
    return {"end": _text(end)}


def _cycle(every: str, anchor: datetime, interval: int = 1) -> BillingCycle:
    return BillingCycle(every, anchor.replace(tzinfo=None), "UTC", interval)  # type: ignore[arg-type]


def _text(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


def _duration(text: str) -> dict[str, int]:
    unit = r"(?:(?P<{}>-?\d+){})?"
    date = "".join(unit.format(name, name) for name in "YMWD")
    clock = "".join(unit.format(name, name.upper()) for name in "hms")
    found = re.fullmatch(f"P{date}(?:T{clock})?", text)
    if found is None:
        raise Unsupported(f"duration {text}")
    return {name: int(value or 0) for name, value in found.groupdict().items()}


def recurrence_period(asked: Asked) -> dict[str, Any]:
    length = {name: number for name, number in _duration(asked("every")).items() if number}
    names = {"Y": "year", "M": "month", "W": "week", "D": "day"}
    if len(length) != 1 or not set(length) <= set(names):
        raise Unsupported("recurrence of mixed units")
    name, interval = length.popitem()
    period = _cycle(names[name], _instant(asked("anchor")), interval).period_at(_instant(asked("at")))
    return {"period": [_text(period.start), _text(period.end)]}


AGGREGATIONS = {
    "COUNT": "count",
    "SUM": "sum",
    "MAX": "max",
    "MIN": "min",
    "LATEST": "last",
    "UNIQUE_COUNT": "unique_count",
}


def meter_query(asked: Asked) -> dict[str, Any]:
    """Events of one subject, aggregated. A value that is not a quantity makes no event, unless nobody needs it."""
    kind = AGGREGATIONS.get(asked("aggregation"))
    if kind is None:
        raise Unsupported(f"aggregation {asked('aggregation')}")
    field, events = asked("field"), []
    needs_number = kind not in {"count", "unique_count"}
    for row, given in enumerate(asked("events", [])):
        quantity = ask.accepted_quantity(_plain(given.get(field))) if needs_number else Decimal(1)
        if quantity is not None:
            at = ask.PERIOD[0] + given.get("second", row) * SECOND
            attributes = {name: str(value) for name, value in given.items() if value is not None}
            events.append(ask.event(quantity, at, row, **attributes))
    (used,) = ask.usage(kind, events, unique_attribute=field if kind == "unique_count" else None)
    nothing = needs_number and kind != "sum" and used.event_count == 0
    return {"value": None if nothing else used.quantity}


def _plain(value: object) -> object:
    # A number of the JSON is as good as its text; true, lists and mappings are what they are.
    return str(value) if isinstance(value, int | Decimal) and not isinstance(value, bool) else value


def event_validation(asked: Asked) -> dict[str, Any]:
    """One event as JSON text: its quantity (or its text, for unique counts) and its groups, or a refusal."""
    kind, field, by = AGGREGATIONS[asked("aggregation")], asked("field"), asked("group_by", [])
    try:
        data = json.loads(asked("data_json"), parse_float=Decimal)
    except ValueError:
        return {"error": "invalid_event"}
    needs_number = kind not in {"count", "unique_count"}
    quantity = ask.accepted_quantity(_plain(data.get(field))) if needs_number else Decimal(1)
    if quantity is None or (kind == "unique_count" and data.get(field) is None):
        return {"error": "invalid_event"}
    attributes = {name: _plain(value) for name, value in data.items() if needs_number is False or name != field}
    unique = field if kind == "unique_count" else None
    shown = [*by, *([field] if unique else [])]
    used = ask.usage(kind, [ask.event(quantity, **attributes)], unique_attribute=unique, by=shown)[0]
    groups = json.loads(used.group_key) if used.group_key else {}
    answer: dict[str, Any] = {"value": used.quantity, "groups": {name: groups[name] for name in by}}
    return {**answer, "text": groups[field]} if unique else answer


ANSWERS: dict[str, Answer] = {
    "pricing": pricing,
    "delta_rating": delta_rating,
    "graduated_total": graduated_total,
    "graduated_steps": graduated_steps,
    "volume_tier_lookup": volume_tier_lookup,
    "package_count": package_count,
    "rounding": rounding,
    "proration": proration,
    "calendar_add": calendar_add,
    "recurrence_period": recurrence_period,
    "meter_query": meter_query,
    "event_validation": event_validation,
}
