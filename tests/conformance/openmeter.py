"""The reader of `openmeter.jsonl`: tiers, time and usage. Pieces of a period and grants have readers of their own."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from metering.periods import BillingCycle
from rating.proration import share_of
from rating.rounding import round_amount
from tests.conformance import ask
from tests.conformance.cases import Answer, Asked, Unsupported

SECOND = timedelta(seconds=1)


def _tiers(asked: Asked) -> list[dict[str, Any]]:
    return [ask.tier(row("up_to"), row("unit"), row("flat")) for row in asked.rows("tiers")]


def tier_price(asked: Asked) -> dict[str, Any]:
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
    service, full = ([instant(text) for text in asked(name)] for name in ("service", "full"))
    lengths = [(end - start) // timedelta(microseconds=1) for start, end in (service, full)]
    try:
        return {"amount": ask.rounded(share_of(amount, *lengths), currency)}
    except (ValueError, ArithmeticError):
        return {"error": "refused"}


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def calendar_add(asked: Asked) -> dict[str, Any]:
    """A duration: years and months first, the day clamped, then weeks and days, then clock time."""
    end, length = instant(asked("start")), duration(asked("add"))
    for every, number in (("month", 12 * length["Y"] + length["M"]), ("week", length["W"]), ("day", length["D"])):
        end = cycle(every, end).boundary(number)
    end += timedelta(hours=length["h"], minutes=length["m"], seconds=length["s"])
    return {"end": text(end)}


def cycle(every: str, anchor: datetime, interval: int = 1) -> BillingCycle:
    return BillingCycle(every, anchor.replace(tzinfo=None), "UTC", interval)  # type: ignore[arg-type]


def text(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


def duration(text: str) -> dict[str, int]:
    unit = r"(?:(?P<{}>-?\d+){})?"
    date = "".join(unit.format(name, name) for name in "YMWD")
    clock = "".join(unit.format(name, name.upper()) for name in "hms")
    found = re.fullmatch(f"P{date}(?:T{clock})?", text)
    if found is None:
        raise Unsupported(f"duration {text}")
    return {name: int(value or 0) for name, value in found.groupdict().items()}


def recurrence_period(asked: Asked) -> dict[str, Any]:
    length = {name: number for name, number in duration(asked("every")).items() if number}
    names = {"Y": "year", "M": "month", "W": "week", "D": "day"}
    if len(length) != 1 or not set(length) <= set(names):
        raise Unsupported("recurrence of mixed units")
    name, interval = length.popitem()
    period = cycle(names[name], instant(asked("anchor")), interval).period_at(instant(asked("at")))
    return {"period": [text(period.start), text(period.end)]}


AGGREGATIONS = {
    "AVG": "average",
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
