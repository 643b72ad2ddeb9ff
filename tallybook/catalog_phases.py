"""What a subscription says of its time: the plans it changes to, the units it holds, the terms that are its own.

Enters: a subscription and the plans of the catalog, by plan key. Leaves: mistakes as places and sentences, and the stretches
of time in which it is on each plan.
Refuses: changes to plans that there are not, units that no price is for or that are not said, overrides that fit no price.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from pydantic import ValidationError

from metering.catalog import MISTAKES, Place
from rating.included_from import features_of, misfits
from rating.phases import overridden, phases_of, plan_keys_of
from rating.plans import Plan, Subscription, instant_of, when_text
from rating.spans import plan_key
from rating.terms import cycle_of
from tallybook.catalog_sentences import nearest


class Stretch(NamedTuple):
    """A subscription is on a plan, whatever its version, over [start, end)."""

    subscription: Subscription
    plan: str
    start: datetime
    end: datetime | None


def stretches_of(subscription: Subscription, plans: Mapping[str, Plan]) -> list[Stretch]:
    """Return when a subscription is on which plan; nothing where a plan is missing."""
    if any(plan_key(name, version) not in plans for name, version in plan_keys_of(subscription)):
        return []
    phases = phases_of(
        subscription,
        lambda name, version: plans[plan_key(name, version)],
        lambda plan, instant: cycle_of(subscription, plan).period_at(instant),
    )
    return [Stretch(subscription, one.plan, one.start, one.end) for one in phases]


def check_over_time(subscription: Subscription, plans: Mapping[str, Plan]) -> Iterator[tuple[Place, str]]:
    """Yield what a subscription says wrongly of its changes, units and overrides, given that its first plan is there."""
    yield from _check_changes(subscription, plans)
    held = [plans[plan_key(*key)] for key in plan_keys_of(subscription) if plan_key(*key) in plans]
    yield from _check_quantities(subscription, held)
    yield from _check_overrides(subscription, held)
    charged = {feature for plan in held for feature in features_of(plan.prices).values()}
    for at, one in enumerate(subscription.entitlements):
        if one.feature in charged:
            yield from ((("entitlements", at, key), what) for key, what in misfits(one))


def _check_changes(subscription: Subscription, plans: Mapping[str, Plan]) -> Iterator[tuple[Place, str]]:
    name, version = subscription.plan, subscription.version
    before = instant_of(subscription.starts_at, plans[plan_key(name, version)].billing_period.timezone)
    for at, change in enumerate(subscription.changes):
        name, version = change.plan or name, change.version or version
        if plan_key(name, version) in plans:
            instant = instant_of(change.starts_at, plans[plan_key(name, version)].billing_period.timezone)
            if instant <= before:
                what = f"{when_text(change.starts_at)} is not after what stands before it"
                yield ("changes", at, "from"), f"{what}; write changes in the order of time, after from"
            before = instant
            continue
        versions = sorted(one.version for one in plans.values() if one.name == name)
        if versions:
            there = ", ".join(map(str, versions))
            what = f"plan {name!r} has no version {version} (there is {there}); correct it or add it under plans"
            yield ("changes", at, "version"), what
        else:
            hint = nearest(name, sorted({one.name for one in plans.values()}))
            yield ("changes", at, "plan"), f"plan {name!r} is not declared under plans; declare it there, or {hint}"


def _check_quantities(subscription: Subscription, held: list[Plan]) -> Iterator[tuple[Place, str]]:
    asked = {
        price.per_unit_of: (plan, price)
        for plan in held
        for price in plan.prices
        if price.type == "flat" and price.per_unit_of is not None
    }
    said: list[tuple[Place, str]] = [(("quantities", name), name) for name in subscription.quantities]
    for at, change in enumerate(subscription.changes):
        said += [(("changes", at, "quantities", name), name) for name in change.quantities]
    for place, name in said:
        if name not in asked:
            hint = nearest(name, sorted(asked))
            yield place, f"no price of its plans is per unit of {name!r}; write per_unit_of on a flat price, or {hint}"
    for name in sorted(asked.keys() - {name for _, name in said}):
        plan, price = asked[name]
        what = f"price {price.id!r} of plan {plan.name!r} is per unit of {name!r}, and nothing says how many"
        yield ("quantities",), f"{what}; write quantities: {{{name}: <number>}}"


def _check_overrides(subscription: Subscription, held: list[Plan]) -> Iterator[tuple[Place, str]]:
    known = sorted({price.id for plan in held for price in plan.prices})
    for price_id in subscription.overrides:
        if price_id not in known:
            hint = nearest(price_id, known) if known else "remove it"
            yield ("overrides", price_id), f"its plans have no price {price_id!r}; {hint}"
    for plan in held if subscription.overrides else ():
        try:
            overridden(plan, subscription.overrides)
        except ValidationError as refused:
            for error in refused.errors():
                yield from _override_mistakes(subscription, plan, error["type"], error["loc"], error)


def _override_mistakes(
    subscription: Subscription, plan: Plan, kind: str, loc: Place, error: Mapping[str, object]
) -> Iterator[tuple[Place, str]]:
    """Put the mistakes of a plan with overrides where the override stands."""
    context = error.get("ctx")
    told = context.get("mistakes") if kind == MISTAKES and isinstance(context, Mapping) else None
    places: list[tuple[Place, str]] = (
        [((*loc, *place), text) for place, text in told] if told else [(loc, str(error["msg"]))]
    )
    for place, text in places:
        number = place[1] if len(place) > 1 and place[0] == "prices" else None
        price_id = plan.prices[number].id if isinstance(number, int) else next(iter(subscription.overrides))
        # The type of the price stands between its number and its fields.
        fields = [step for step in place[2:] if step != _type_of(plan, number)]
        what = f"plan {plan.name!r} version {plan.version} would not be valid: {text.removeprefix('Value error, ')}"
        yield ("overrides", price_id, *fields), what


def _type_of(plan: Plan, number: object) -> str | None:
    return plan.prices[number].type if isinstance(number, int) else None
