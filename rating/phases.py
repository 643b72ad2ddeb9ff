"""A subscription over time: which plan version holds from when to when, how many units, and what is different for it.

Enters: a subscription with its changes and overrides, and the plans of the catalog. Leaves: phases, each a plan and a span
of time; numbers of units with the instants from which they count; the plan with the overrides put in.
Refuses: to know what anything costs. A change has its own instant; it never depends on which plan is dearer.
Source: price models, section 5.5.

Usage is split at a change of plan, and each plan version rates its own time with its own tiers from 0. A change of units
alone splits nothing but the flat amounts that are per unit.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from rating.adjust import APPROVAL
from rating.catalog_times import instant_of
from rating.plans import Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from metering.periods import Period
    from rating.plans import Subscription
    from rating.prices import WhenChanged

# Between a plan key and the id of the subscription whose overrides are in it. No name has this character.
OVERRIDDEN = "\x1e"


class Phase(NamedTuple):
    """A plan version holds for a subscription over [start, end); `end` is None where the subscription goes on."""

    plan: str
    version: int
    start: datetime
    end: datetime | None


def start_of(subscription: Subscription, timezone: str) -> datetime:
    """Return the first instant of a subscription."""
    return instant_of(subscription.starts_at, timezone)


def phases_of(
    subscription: Subscription,
    plan_called: Callable[[str, int], Plan],
    period_at: Callable[[Plan, datetime], Period],
) -> list[Phase]:
    """Return the phases of a subscription in their order. `period_at` is the billing period of a plan at an instant.

    A change takes the place of those before it that still wait: whoever is told of a smaller plan at the period's end, and takes
    a larger one before that, has the larger one at once.
    """
    plan = plan_called(subscription.plan, subscription.version)
    timezone = plan.billing_period.timezone
    end = None if subscription.ends_at is None else instant_of(subscription.ends_at, timezone)
    phases = [Phase(plan.name, plan.version, start_of(subscription, timezone), end)]
    name = plan.name
    for change in subscription.changes:
        if change.version is None:
            continue
        name = change.plan or name
        new = plan_called(name, change.version)
        at = instant_of(change.starts_at, new.billing_period.timezone)
        while len(phases) > 1 and phases[-1].start >= at:
            phases.pop()
        last = phases[-1]
        if change.takes_effect == "period_end":
            period = period_at(plan_called(last.plan, last.version), at)
            at = at if at == period.start else period.end
        at = max(at, last.start)
        phases[-1] = last._replace(end=at if end is None else min(at, end))
        phases.append(Phase(new.name, new.version, at, end))
    return [phase for phase in phases if phase.end is None or phase.start < phase.end]


def plan_keys_of(subscription: Subscription) -> list[tuple[str, int]]:
    """Return the name and version of every plan that a subscription is on, was on or will be on."""
    found = [(subscription.plan, subscription.version)]
    for change in subscription.changes:
        if change.version is not None:
            found.append((change.plan or found[-1][0], change.version))
    return found


def quantities_at(
    subscription: Subscription,
    name: str,
    period: Period,
    timezone: str,
    when_more: WhenChanged,
    when_fewer: WhenChanged,
) -> list[tuple[datetime, Decimal]]:
    """Return how many units count within a billing period, and from when; the first is from its start.

    What takes effect at the period's end waits for it: the next period begins with what was said last before it.
    """
    said = Decimal(subscription.quantities.get(name, 0))
    held = [(period.start, said)]
    for change in subscription.changes:
        if name not in change.quantities:
            continue
        at = instant_of(change.starts_at, timezone)
        if at >= period.end:
            break
        said = change.quantities[name]
        if at <= period.start:
            held = [(period.start, said)]
            continue
        counts = held[-1][1]
        waits = (when_more if said > counts else when_fewer) == "period_end"
        if said != counts and not waits:
            held.append((at, said))
    return held


def overridden(plan: Plan, overrides: Mapping[str, Mapping[str, Any]]) -> Plan:
    """Return a plan in which the named prices have other fields. Raises pydantic's ValidationError where they do not fit.

    A price that the plan does not have is passed over: another version of the plan may have it.
    """
    document = plan.model_dump(by_alias=True, exclude_unset=True)
    written = [
        {**price.model_dump(by_alias=True, exclude_unset=True), **_terms_in(overrides.get(price.id, {}))}
        for price in plan.prices
    ]
    return Plan.model_validate({**document, "prices": written})


def _terms_in(override: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in override.items() if field not in APPROVAL}


class Plans(dict[str, Plan]):
    """Plans by plan key; a key that names a subscription besides gives the plan with its overrides, made when asked for.

    Whoever goes through all plans sees those of the catalog only.
    """

    def __init__(self, plans: Mapping[str, Plan], subscriptions: Sequence[Subscription]) -> None:
        super().__init__(plans)
        self._overrides = {one.id: one.overrides for one in subscriptions if one.overrides}
        self._made: dict[str, Plan] = {}

    def __missing__(self, key: str) -> Plan:
        plain, _, subscription_id = key.partition(OVERRIDDEN)
        if subscription_id not in self._overrides or plain not in self:
            raise KeyError(key)
        if key not in self._made:
            self._made[key] = overridden(self[plain], self._overrides[subscription_id])
        return self._made[key]
