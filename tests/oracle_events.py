"""The oracle of which events count: corrections name events that do not, and a plan may refuse what is told too late.

What enters: events that are no duplicates, as in tests/oracle.py; `correction` is a dict (verb, and key or origin) or missing.
What leaves: the events that count. It shares no code with the packages, and refuses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from tests import oracle

Row = dict[str, Any]


def is_named(event: Row, correction: Row, by: Row) -> bool:
    if event["tenant_id"] != by["tenant_id"]:
        return False
    if "key" in correction:
        return event["meter"] == by["meter"] and event["idempotency_key"] == correction["key"]
    return all(event[name] == correction[name] for name in ("producer_id", "segment", "row"))


def standing(events: list[Row]) -> list[Row]:
    """Return the events that no correction names, without those that only void."""
    correcting = [event for event in events if event.get("correction")]
    return [
        event
        for event in events
        if (event.get("correction") or {}).get("verb") != "void"
        and not any(is_named(event, by["correction"], by) for by in correcting)
    ]


def on_time(events: list[Row], spans: Iterable[tuple[Row, Row, oracle.Period]]) -> list[Row]:
    """Return the events that some plan of their tenant still takes: (subscription, plan, period) of all time."""
    limits: dict[str, list[tuple[oracle.Period, int | None]]] = {}
    for subscription, plan, period in spans:
        days = plan.get("late_usage_days")
        limits.setdefault(subscription["tenant"], []).append((period, None if days is None else int(days)))
    kept = []
    for event in events:
        inside = [
            (period, days)
            for period, days in limits.get(event["tenant_id"], [])
            if period.service_start <= event["event_time"] < period.service_end
        ]
        too_late = [
            days is not None and event["recorded_at"] >= period.end + timedelta(days=days) for period, days in inside
        ]
        if event.get("correction") or not inside or not all(too_late):
            kept.append(event)
    return kept
