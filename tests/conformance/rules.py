"""The rules of `questioned.yaml`: which inputs a rule speaks of, and what our answer to them is.

A rule looks at the input of a case, never at its name, and returns our expectation, or None where it does not apply.
Where numbers are needed they come from the oracle, so that the engine is still checked and not just excused.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from decimal import Decimal
from typing import Any

from tests import oracle
from tests.conformance import rules_lago, rules_peers
from tests.conformance.ask import accepted_quantity
from tests.conformance.cases import Rule

Values = dict[str, Any]
REFUSED = {"error": "refused"}


def zero_quantity_line(asked: Values, expected: Values) -> Values | None:
    used = [Decimal(str(asked.get(name) or 0)) for name in ("quantity", "pre_quantity")]
    if asked["price"]["type"] != "graduated" or any(used):
        return None
    return {"lines": [line for line in expected["lines"] if Decimal(line["quantity"]) or Decimal(line["total"])]}


def missing_group_is_null(asked: Values, expected: Values) -> Values | None:
    try:
        data = json.loads(asked["data_json"])
    except ValueError:
        return None
    missing = dict.fromkeys(name for name in asked.get("group_by", []) if data.get(name) is None)
    return {**expected, "groups": {**expected["groups"], **missing}} if missing and "groups" in expected else None


def nine_decimals(asked: Values, expected: Values) -> Values | None:
    values = [event.get(asked["field"]) for event in asked["events"]]
    quantities = [accepted_quantity(str(value)) for value in values if value is not None]
    if None not in quantities:
        return None
    events = [
        {"quantity": quantity, "event_time": row, "recorded_at": row, "producer_id": "", "segment": 0, "row": row}
        for row, quantity in enumerate(quantities)
        if quantity is not None
    ]
    kind = {"latest": "last"}.get(asked["aggregation"].lower(), asked["aggregation"].lower())
    return {"value": oracle.aggregate(events, {"aggregation": kind})}


def share_out_of_range(asked: Values, expected: Values) -> Values | None:
    (start, end), (opens, closes) = (
        [datetime.fromisoformat(text) for text in asked[name]] for name in ("service", "full")
    )
    if not asked["enabled"] or (opens < closes and end - start <= closes - opens and end > start):
        return None
    return {"amount": Decimal(0)} if opens < closes and end == start else REFUSED


def first_of_a_key(asked: Values, expected: Values) -> Values | None:
    first: dict[str, Decimal] = {}
    for event in asked["events"]:
        first.setdefault(event["tx"], Decimal(event["value"]))
    ours = {"sum": sum(first.values()), "count": len(first)}
    return {name: ours[name] for name in expected} if len(first) < len(asked["events"]) else None


def batch_is_never_refused(asked: Values, expected: Values) -> Values | None:
    batch = asked.get("tx") or [str(number) for number in range(asked["count"])]
    ours = {"stored_new": len(set(batch) - set(asked.get("stored", []))), "error_indexes": []}
    return {name: ours[name] for name in expected if name in ours}


def cancel_is_open(asked: Values, expected: Values) -> Values | None:
    start, cancel = (datetime.fromisoformat(asked[name]) for name in ("start", "cancel"))
    times = [(datetime.fromisoformat(at), Decimal(quantity)) for at, quantity in asked["events"]]
    if not asked.get("include_cancel_instant") or not any(at == cancel for at, _ in times):
        return None
    return {"billed": sum(quantity for at, quantity in times if start <= at < cancel)}


def no_usage_is_too_late(asked: Values, expected: Values) -> Values | None:
    if asked.get("op") != "late_window":
        return None
    return {"billed": sum(Decimal(event["qty"]) for event in asked["events"]), "ignored": Decimal(0)}


def open_end_is_demanded(asked: Values, expected: Values) -> Values | None:
    if not asked.get("tiers") or asked["tiers"][-1]["up_to"] is None:
        return None
    return REFUSED if Decimal(str(asked["quantity"])) > Decimal(asked["tiers"][-1]["up_to"]) else None


def expiry_is_exact(asked: Values, expected: Values) -> Values | None:
    def key(grant: Values) -> tuple[Any, ...]:
        ends = Decimal(grant["expires_at_ms"]) if "expires_at_ms" in grant else _offset_ms(grant.get("expires_at"))
        return grant["priority"], ends, _offset_ms(grant["created_at"]), grant["id"]

    return {"order": [grant["id"] for grant in sorted(asked["grants"], key=key)]}


def _offset_ms(text: str | None) -> Decimal:
    if text is None:
        return Decimal("Infinity")
    factors = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000}
    size = sum(int(number) * factors[unit] for number, unit in re.findall(r"(\d+)([dhms])", text))
    return Decimal(-size if text.startswith("-") else size)


def ceiling_over_the_whole_period(asked: Values, expected: Values) -> Values | None:
    if asked.get("aggregation") != "LATEST":
        return None
    until = _offset_ms(asked["until"])
    last = max((one for one in asked["usage"] if _offset_ms(one["at"]) < until), key=lambda one: _offset_ms(one["at"]))
    limit = sum(
        Decimal(grant["amount"])
        for grant in asked["grants"]
        if _offset_ms(grant["effective_at"]) <= until < _offset_ms(grant.get("expires_at"))
    )
    used = Decimal(last["value"])
    return {"usage": used, "grant_usage": min(used, limit), "total_balance": max(limit - used, Decimal(0))}


def a_line_has_one_period(asked: Values, expected: Values) -> Values | None:
    return {"runs": [{"total": run["total"]} for run in expected["runs"]]}


def conversion_of_the_whole(asked: Values, expected: Values) -> Values | None:
    said = asked.get("unit_conversion", asked)
    before, quantity = (Decimal(asked.get(name, "0")) for name in ("pre_quantity", "quantity"))
    is_ceiling = said.get("op") == "divide" and said["rounding"] == "ceiling" and Decimal(said["factor"]) > 0
    if not is_ceiling or not before:
        return None
    units = [-(-whole // int(said["factor"])) for whole in (int(before), int(before + quantity))]
    if "price" not in asked:
        return {"quantity": units[1] - units[0], "pre_quantity": units[0]}
    unit_price = Decimal(asked["price"]["unit_price"])
    changed = {"quantity": units[1] - units[0], "amount": unit_price * (units[1] - units[0])}
    line = {**expected["lines"][0], **changed, "total": changed["amount"]}
    return {"lines": [{name: str(value) for name, value in line.items()}]}


def any_price_converts(asked: Values, expected: Values) -> Values | None:
    return {"quantity": -(-int(asked["quantity"]) // int(asked["factor"]))} if asked.get("price_type") else None


def a_deleted_invoice_comes_again(asked: Values, expected: Values) -> Values | None:
    if not any(cut.get("invoice_deleted_afterwards") for cut in asked["cuts"]):
        return None
    return {"invoices": [{"total": invoice["total"]} for invoice in expected["invoices"]]}


RULES: dict[str, Rule] = (
    {
        rule.__name__: rule
        for rule in (
            zero_quantity_line,
            missing_group_is_null,
            nine_decimals,
            share_out_of_range,
            first_of_a_key,
            batch_is_never_refused,
            cancel_is_open,
            no_usage_is_too_late,
            open_end_is_demanded,
            a_line_has_one_period,
            conversion_of_the_whole,
            any_price_converts,
            a_deleted_invoice_comes_again,
            expiry_is_exact,
            ceiling_over_the_whole_period,
        )
    }
    | rules_lago.RULES
    | rules_peers.RULES
)
