"""The part of the reader of `openmeter.jsonl` that asks for grants: their order, their burn-down, balances and histories.

Times there are offsets from an arbitrary instant, such as +1d1h; usage before the state that a run begins from is not
part of the run, as with us.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from entitlements.burndown import (
    Grant,
    Run,
    Segment,
    State,
    Used,
    burn_down,
    burn_order,
    ceiling,
    history,
    in_units_of,
)
from metering.periods import BillingCycle
from tests.conformance.cases import NOT_OURS, Agrees, Answer, Asked, Unsupported, says

ZERO_TIME = datetime(2026, 1, 1, tzinfo=UTC)
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
ROLLING = {"SUM": "burned", "COUNT": "burned", "LATEST": "ceiling", "MAX": "ceiling"}


def length(text: str) -> timedelta:
    parts = {_UNITS[unit]: int(number) for number, unit in re.findall(r"(\d+)([dhms])", text)}
    return timedelta(**parts)


def instant(text: str) -> datetime:
    return ZERO_TIME + (-1 if text.startswith("-") else 1) * length(text)


def _optional(asked: Asked, name: str) -> datetime | None:
    milliseconds = asked(f"{name}_ms")
    if milliseconds is not None:
        return ZERO_TIME + timedelta(milliseconds=int(milliseconds))
    text = asked(name)
    return None if text is None else instant(text)


def grant(asked: Asked) -> Grant:
    cycle = None
    if "recurs" in asked:
        recurs = asked.inner("recurs")
        days = length(recurs("every")) // timedelta(days=1)
        cycle = BillingCycle("day", instant(recurs("anchor")).replace(tzinfo=None), "UTC", days)
    return Grant(
        id=asked("id"),
        amount=Decimal(asked("amount", "0")),
        effective_at=_optional(asked, "effective_at") or ZERO_TIME,
        priority=int(asked("priority", 1)),
        expires_at=_optional(asked, "expires_at"),
        voided_at=_optional(asked, "deleted_at"),
        created_at=_optional(asked, "created_at"),
        recurrence=cycle,
        rollover_min=Decimal(asked("rollover_min", "0")),
        rollover_max=Decimal(asked("rollover_max", "0")),
    )


def usage(asked: Asked) -> list[Used]:
    units = Decimal(1)
    if "unit_conversion" in asked:
        conversion = asked.inner("unit_conversion")
        if conversion("op") != "divide" or conversion("rounding") != "none":
            raise Unsupported("unit_conversion")
        units = Decimal(conversion("factor"))
    found = [Used(instant(row("at")), in_units_of(Decimal(row("value")), units)) for row in asked.rows("usage")]
    return sorted(found, key=lambda one: one.at)


def start(asked: Asked) -> State:
    if "start" not in asked:
        return State(ZERO_TIME)
    said = asked.inner("start")
    balances = {name: Decimal(amount) for name, amount in said("balances", {}).items()}
    numbers = [Decimal(said(name, "0")) for name in ("overage", "usage_so_far", "grant_usage_so_far")]
    return State(instant(said("at")), balances, *numbers)


def grant_order(asked: Asked) -> dict[str, Any]:
    return {"order": [one.id for one in burn_order([grant(row) for row in asked.rows("grants")])]}


def run_of(asked: Asked) -> dict[str, Any]:
    grants, used, begin = [grant(row) for row in asked.rows("grants")], usage(asked), start(asked)
    until = instant(asked("until"))
    resets = [instant(text) for text in asked("resets", [])]
    keep = bool(asked("preserve_overage", False))
    if ROLLING[asked("aggregation", "SUM")] == "ceiling":
        last = [one.quantity for one in used if one.at < until][-1:]
        return _state(ceiling(grants, last[0] if last else Decimal(0), until)) | {"segments": NOT_OURS}
    run = burn_down(grants, used, begin, until, resets=resets, keep_overage=keep)
    return _state(run.state) | {"segment_count": len(run.segments), "segments": _segments(run), "tolerance": NOT_OURS}


def _state(state: State) -> dict[str, Any]:
    return {
        "balances": dict(state.balances),
        "overage": state.overage,
        "usage": state.usage,
        "grant_usage": state.granted_usage,
        "total_balance": state.balance,
        "total_available": state.available,
    }


def _segments(run: Run) -> Sequence[dict[str, Any]]:
    return [_segment(segment) for segment in run.segments]


def _segment(segment: Segment) -> dict[str, Any]:
    return {
        "total_usage": segment.usage,
        "overage": segment.overage,
        "balance_at_start": dict(segment.balances_at_start),
        "balance_at_start_total": sum(segment.balances_at_start.values(), Decimal(0)),
        "balance_at_end_total": sum(segment.balances_at_end.values(), Decimal(0)),
    }


def entitlement_history(asked: Asked) -> dict[str, Any]:
    """Return windows; a figure that is null there is one that the case does not look at."""
    windows = history(
        [grant(row) for row in asked.rows("grants")],
        usage(asked),
        State(instant(asked("measured_from"))),
        instant(asked("history_from")),
        instant(asked("until")),
        length(asked("window")),
    )
    found = [{"usage": one.usage, "balance_at_start": one.balance_at_start} for one in windows]

    def agrees(expected: list[dict[str, Any]]) -> bool:
        said = [{name: number for name, number in row.items() if number is not None} for row in expected]
        return says(found, said)

    return {"windows": Agrees(agrees, repr(found))}


ANSWERS: dict[str, Answer] = {
    "grant_order": grant_order,
    "grant_burndown": run_of,
    "entitlement_balance": run_of,
    "entitlement_history": entitlement_history,
}
