"""The demo's workload: what the tenants of a made-up company used in one October.

Enters: the number of events. Leaves: the same events every time, for every producer its own part of them.
Refuses: chance. Everything follows from the number of the event, so that whoever counts can say what must have arrived.

Tenants are skewed as in life: a few large ones and a long tail (tenant k is about 1/k as busy as the first).
"""

from __future__ import annotations

import struct
from bisect import bisect
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TENANTS = 300
ENTERPRISE = 6
PRO = 84
ACCOUNTS_WITH_TWO_TENANTS = 20
START = datetime(2026, 10, 1, tzinfo=UTC)
MONTH_S = 31 * 86_400
MODELS = ("small-2", "large-2", "vision-1")
# How a producer notes, in a page that its parent maps too, how many of its events were acknowledged.
COUNT = struct.Struct("<q")
# Of a hundred events.
REQUESTS = 44
ENDPOINTS = ("/v1/documents", "/v1/search", "/v1/chat")


@dataclass(frozen=True, slots=True)
class WorkEvent:
    """One use: what a producer passes to `Recorder.record`. `key` is set where the caller has an identity for it."""

    meter: str
    tenant: str
    quantity: int
    event_time: datetime
    attributes: dict[str, str]
    key: str | None


def tenant_name(number: int) -> str:
    """Return the name of tenant `number`; the smallest numbers are the busiest."""
    return f"tenant-{number:03}"


def plan_of(number: int) -> tuple[str, int]:
    """Return the plan version of a tenant: the busiest are on enterprise, the next on pro, the tail on starter."""
    if number < ENTERPRISE:
        return "enterprise", 2
    return ("pro", 1) if number < ENTERPRISE + PRO else ("starter", 1)


def accounts_and_subscriptions() -> dict[str, list[dict[str, object]]]:
    """Return the catalog entries of who pays and who is on which plan. Some accounts pay for two tenants."""
    accounts: list[dict[str, object]] = []
    number = 0
    while number < TENANTS:
        # Only neighbours on the same plan share a payer, so that an account has one currency.
        first = ENTERPRISE + PRO
        size = 2 if first <= number < first + 2 * ACCOUNTS_WITH_TWO_TENANTS else 1
        tenants = [tenant_name(number + offset) for offset in range(size)]
        accounts.append(
            {"id": f"account-{len(accounts):03}", "name": f"Customer {len(accounts):03}, Inc.", "tenants": tenants}
        )
        number += size
    subscriptions: list[dict[str, object]] = []
    for number in range(TENANTS):
        plan, version = plan_of(number)
        subscription = {"id": f"sub-{number:03}", "tenant": tenant_name(number), "plan": plan, "version": version}
        # Every ninth tenant arrived in the middle of October: its fee is prorated, its earlier use is not billed.
        begun = "2026-10-12" if number % 9 == 8 else "2026-01-01"
        subscriptions.append({**subscription, "from": begun})
    return {"accounts": accounts, "subscriptions": subscriptions}


def work(producer: int, producers: int, events: int, *, start: int = 0) -> Iterator[WorkEvent]:
    """Yield the events of one producer, from its event number `start` on. Event n is the same whoever yields it."""
    weights = _weights()
    for own in range(start, len(range(producer, events, producers))):
        number = producer + own * producers
        bits = _mixed(number)
        yield _event(number, events, (bits >> 11) / (1 << 53), bits & 0x3FFFFFFF, weights)


def requests_of(tenants: range, events: int) -> Iterator[tuple[str, datetime]]:
    """Yield whose requests came when, of some tenants: the same as in `work`, without making the other events."""
    weights = _weights()
    for number in range(events):
        mixed = _mixed(number)
        bits = mixed & 0x3FFFFFFF
        if bits % 100 < REQUESTS and (who := _who((mixed >> 11) / (1 << 53), weights)) in tenants:
            yield tenant_name(who), _when(number, events, bits)


def _weights() -> list[float]:
    return list(accumulate(1 / (number + 1) ** 0.85 for number in range(TENANTS)))


def _who(luck: float, weights: list[float]) -> int:
    return min(bisect(weights, luck * weights[-1]), TENANTS - 1)


def _when(number: int, events: int, bits: int) -> datetime:
    # Events come in the order of time, denser in the afternoons than at night.
    second = number * MONTH_S // events
    return START + timedelta(seconds=second - second % 3 + bits % 3, microseconds=bits % 1_000_000)


def _mixed(number: int) -> int:
    # splitmix64: 64 well-mixed bits that depend on the number alone.
    mixed = (number + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return mixed ^ mixed >> 31


def _event(number: int, events: int, luck: float, bits: int, weights: list[float]) -> WorkEvent:
    tenant = tenant_name(_who(luck, weights))
    event_time = _when(number, events, bits)
    kind = bits % 100
    if kind < REQUESTS:
        attributes = {"endpoint": ENDPOINTS[bits // 100 % len(ENDPOINTS)]}
        return WorkEvent("api_requests", tenant, 1, event_time, attributes, None)
    if kind < 88:
        direction = "output" if bits & 1 else "input"
        attributes = {"model": MODELS[bits // 100 % len(MODELS)], "direction": direction}
        return WorkEvent("tokens", tenant, 40 + bits // 7 % 2_400, event_time, attributes, f"resp_{number:09}")
    if kind < 92:
        return WorkEvent("build_minutes", tenant, 1 + bits // 100 % 30, event_time, {}, f"build_{number:09}")
    if kind < 95:
        return WorkEvent("active_users", tenant, 1, event_time, {"user": f"u{bits // 100 % 60}"}, None)
    if kind < 97:
        return WorkEvent("storage_gb", tenant, 5 + bits // 100 % 400, event_time, {}, None)
    if kind < 99:
        return WorkEvent("seats", tenant, 1 + bits // 100 % 80, event_time, {}, None)
    return WorkEvent("experiments", tenant, 1, event_time, {}, None)
