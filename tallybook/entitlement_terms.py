"""Who is entitled to what at an instant: subscriptions, the entitlements of their plans, overrides and grants, resolved.

Enters: the catalog's terms and an instant. Leaves: per tenant and feature one `Entitled`: its entitlement, the grants that
its quota is made of, and when it is reset. Refuses: to look at usage.

Of several subscriptions of a tenant, the one that began first decides how a metered feature is reset and limited, and the
quotas of the others come on top, each becoming full with its own reset; a boolean feature is on if any says so; of a static
one the subscription that began last decides. An override stands in the place of its plan's entitlement. A quota that
changes counts for the whole reset period in which it changes. A quota with `rollover_max` is a grant per period, which
lives through the next one too; without it, it is one grant, full at each reset (price models, section 8).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING

from entitlements.burndown import ZERO, Grant
from entitlements.features import QUOTA_PRIORITY_DEFAULT
from metering.periods import CALENDAR_ANCHOR, BillingCycle, zone
from rating.catalog_times import instant_of
from rating.terms import NEVER, cycle_of, service_of

if TYPE_CHECKING:
    from entitlements.features import Entitlement
    from metering.periods import Period
    from rating.grants import TenantGrant
    from rating.plans import Plan, Subscription
    from rating.terms import Terms


@dataclass(frozen=True, slots=True)
class Holding:
    """A subscription that runs at the instant, its plan, and when it runs."""

    subscription: Subscription
    plan: Plan
    service: Period

    @property
    def source(self) -> str:
        return f"plan {self.plan.name}/{self.plan.version}"


@dataclass(frozen=True, slots=True)
class Entitled:
    """One feature of one tenant at an instant. The last four are of metered ones only.

    `measured_from` is when usage begins to count; `cycle` says when it begins anew, None: never.
    """

    tenant: str
    entitlement: Entitlement
    source: str
    holding: Holding
    measured_from: datetime
    cycle: BillingCycle | None = None
    grants: tuple[Grant, ...] = ()
    is_limited: bool = False

    def resets(self, after: datetime, until: datetime) -> list[datetime]:
        """Return the resets in (after, until]."""
        return [] if self.cycle is None else list(_boundaries(self.cycle, after, until))

    def last_reset(self, at: datetime) -> datetime:
        """Return where usage began to count at an instant: the last reset, or the beginning of the subscription."""
        return self.measured_from if self.cycle is None else max(self.measured_from, _period_at(self.cycle, at).start)

    def next_reset(self, at: datetime) -> datetime | None:
        """Return the first reset after an instant at which it still runs."""
        if self.cycle is None:
            return None
        reset = _period_at(self.cycle, at).end
        return reset if reset < self.holding.service.end else None

    def window(self, at: datetime) -> tuple[datetime, datetime | None]:
        """Return the window [start, end) of a hard limit at an instant: between two resets, while it runs. None: open."""
        end = self.holding.service.end
        if self.cycle is not None:
            end = min(end, _period_at(self.cycle, at).end)
        return self.last_reset(at), None if end == NEVER else end


# Most tenants share their cycles, and all are asked about at one instant.
_period_at = lru_cache(maxsize=4096)(BillingCycle.period_at)


@lru_cache(maxsize=4096)
def _boundaries(cycle: BillingCycle, after: datetime, until: datetime) -> tuple[datetime, ...]:
    number, found = cycle.number_at(after) + 1, []
    while (at := cycle.boundary(number)) <= until:
        found.append(at)
        number += 1
    return tuple(found)


def resolve(
    terms: Terms, grants: Iterable[TenantGrant], at: datetime, *, tenant: str | None = None
) -> tuple[dict[str, list[Entitled]], dict[str, set[str]]]:
    """Return per tenant what it is entitled to at an instant, and the features of its other times."""
    running: dict[str, list[Holding]] = {}
    elsewhen: dict[str, set[str]] = {}
    for subscription in terms.subscriptions:
        if tenant is not None and subscription.tenant != tenant:
            continue
        plan = terms.plan_of(subscription)
        holding = Holding(subscription, plan, service_of(subscription, plan))
        if at in holding.service:
            running.setdefault(subscription.tenant, []).append(holding)
        else:
            elsewhen.setdefault(subscription.tenant, set()).update(one.feature for one in plan.entitlements)
    given: dict[tuple[str, str], list[TenantGrant]] = {}
    for grant in grants:
        given.setdefault((grant.tenant, grant.feature), []).append(grant)
    found = {name: _of_tenant(name, holdings, given, at) for name, holdings in running.items()}
    for name, others in elsewhen.items():
        others.difference_update(one.entitlement.feature for one in found.get(name, ()))
    return found, elsewhen


def templates(
    terms: Terms, grants: Iterable[TenantGrant], at: datetime
) -> tuple[list[tuple[list[Entitled], list[str]]], Terms]:
    """Return what is the same for many tenants, once, with those tenants; and the terms of all others.

    Many tenants are on one plan since one instant, without overrides, grants or further subscriptions: what holds for one
    holds for all of them, but for what they used.
    """
    counts = Counter(subscription.tenant for subscription in terms.subscriptions)
    special = {grant.tenant for grant in grants} | {tenant for tenant, count in counts.items() if count > 1}
    same: dict[tuple[object, ...], list[Subscription]] = {}
    others: list[Subscription] = []
    for subscription in terms.subscriptions:
        if subscription.entitlements or subscription.tenant in special:
            others.append(subscription)
        else:
            key = subscription.plan, subscription.version, subscription.starts_at, subscription.ends_at
            same.setdefault(key, []).append(subscription)
    found = []
    for subscriptions in same.values():
        entitled, _ = resolve(replace(terms, subscriptions=subscriptions[:1]), (), at)
        held = entitled.get(subscriptions[0].tenant, [])
        if held and all(_is_plain(one, at) for one in held):
            found.append((held, [subscription.tenant for subscription in subscriptions]))
        else:
            others += subscriptions
    return found, replace(terms, subscriptions=sorted(others, key=lambda one: one.id))


def changes_of(held: Iterable[Entitled], subscription: Subscription, terms: Terms, at: datetime) -> Iterator[datetime]:
    """Yield instants at which what a tenant holds may change though nothing is used; some may be before `at`.

    Of each entitlement the next reset, and beginnings, ends and the next recurrence of its grants; of the subscription
    its beginning and end, and those of its overrides.
    """
    plan = terms.plan_of(subscription)
    holding = Holding(subscription, plan, service_of(subscription, plan))
    yield holding.service.start
    yield holding.service.end
    for override in subscription.entitlements:
        yield from _times(override, holding)
    for one in held:
        if one.cycle is not None:
            yield _period_at(one.cycle, at).end
        for grant in one.grants:
            yield grant.effective_at
            yield grant.ends_at
            if grant.recurrence is not None:
                yield _period_at(grant.recurrence, at).end


def _is_plain(entitled: Entitled, at: datetime) -> bool:
    """Return whether what is left is the quota minus what was used since the last reset, whatever was before."""
    if entitled.entitlement.type != "metered" or not entitled.is_limited:
        return True
    (grant, *more), keeps = entitled.grants, entitled.entitlement.keep_overage
    is_full = grant.rollover_min == grant.rollover_max == grant.amount and grant.is_active(at)
    return not more and not keeps and is_full


def _of_tenant(
    tenant: str, holdings: list[Holding], given: dict[tuple[str, str], list[TenantGrant]], at: datetime
) -> list[Entitled]:
    holdings.sort(key=lambda one: (one.service.start, one.subscription.id))
    said: dict[str, list[tuple[Holding, Entitlement, str]]] = {}
    for holding in holdings:
        for entitlement, source in _in_force(holding, at):
            said.setdefault(entitlement.feature, []).append((holding, entitlement, source))
    found = []
    for feature, ways in said.items():
        metered = [one for one in ways if one[1].type == "metered"]
        if metered:
            found.append(_metered(tenant, metered, given.get((tenant, feature), ()), at))
            continue
        on = [one for one in ways if one[1].enabled is not False] or ways
        holding, entitlement, source = on[-1]
        found.append(Entitled(tenant, entitlement, source, holding, holding.service.start))
    return found


def _in_force(holding: Holding, at: datetime) -> Iterator[tuple[Entitlement, str]]:
    """Yield the entitlements of a subscription at an instant, each with where it is said."""
    overridden = {}
    for one in holding.subscription.entitlements:
        start, end = _times(one, holding)
        if start <= at < end:
            overridden[one.feature] = one
    for entitlement in holding.plan.entitlements:
        if entitlement.feature not in overridden:
            yield entitlement, holding.source
    for entitlement in overridden.values():
        yield entitlement, f"subscription {holding.subscription.id}"


def _times(override: object, holding: Holding) -> tuple[datetime, datetime]:
    timezone, service = holding.plan.billing_period.timezone, holding.service
    starts_at, ends_at = getattr(override, "starts_at", None), getattr(override, "ends_at", None)
    start = service.start if starts_at is None else max(service.start, instant_of(starts_at, timezone))
    end = service.end if ends_at is None else min(service.end, instant_of(ends_at, timezone))
    return start, end


def _metered(
    tenant: str, ways: Sequence[tuple[Holding, Entitlement, str]], given: Sequence[TenantGrant], at: datetime
) -> Entitled:
    holding, entitlement, source = ways[0]
    same = [one for one in ways if one[1].meter == entitlement.meter]
    cycle = _cycle(holding, entitlement)
    entitled = Entitled(tenant, entitlement, source, holding, holding.service.start, cycle)
    grants = list(_allowances(entitled, at))
    for other, theirs, _ in same[1:]:
        if theirs.quota is not None:
            grants.append(_on_top(other, theirs))
    grants += [_granted(one) for one in given]
    limited = all(one.quota is not None for _, one, _ in same)
    return replace(entitled, grants=tuple(grants), is_limited=limited)


def _cycle(holding: Holding, entitlement: Entitlement) -> BillingCycle | None:
    """Return when a quota begins anew."""
    if entitlement.reset == "never":
        return None
    if entitlement.reset in {None, "billing_period"}:
        return cycle_of(holding.subscription, holding.plan)
    timezone = holding.plan.billing_period.timezone
    anchor = CALENDAR_ANCHOR
    if entitlement.reset_anchor == "subscription":
        anchor = holding.service.start.astimezone(zone(timezone)).replace(tzinfo=None)
    return BillingCycle(entitlement.reset, anchor, timezone)  # type: ignore[arg-type]


def _allowances(entitled: Entitled, at: datetime) -> Iterator[Grant]:
    """Yield the grants that the quota of the first subscription is made of, one stretch per quota that it ever had."""
    holding, feature = entitled.holding, entitled.entitlement.feature
    changes = {holding.service.start}
    for one in holding.subscription.entitlements:
        if one.feature == feature:
            changes.update(time for time in _times(one, holding) if holding.service.start < time <= at)
    # A quota that changes counts for the whole period in which it changes, so a stretch begins with the period.
    stretches: dict[datetime, Entitlement] = {}
    for change in sorted(changes):
        held = [one for one, _ in _in_force(holding, change) if one.feature == feature and one.type == "metered"]
        if held:
            stretches[entitled.last_reset(change)] = held[0]
    ends: list[datetime | None] = [*list(stretches)[1:], None]
    for (start, terms), end in zip(stretches.items(), ends, strict=True):
        if terms.quota is None:
            continue
        if terms.rollover_max is None or entitled.cycle is None:
            yield _allowance(f"{holding.subscription.id}/{start:%Y-%m-%d}", terms, start, end)
        else:
            yield from _per_period(entitled, entitled.cycle, terms, start, at if end is None else min(end, at))


def _allowance(name: str, terms: Entitlement, start: datetime, end: datetime | None) -> Grant:
    quota = terms.quota or ZERO
    return Grant(
        id=name,
        amount=quota,
        effective_at=start,
        priority=QUOTA_PRIORITY_DEFAULT if terms.priority is None else terms.priority,
        voided_at=end,
        created_at=start,
        rollover_min=quota,
        rollover_max=quota,
    )


def _per_period(
    entitled: Entitled, cycle: BillingCycle, terms: Entitlement, start: datetime, until: datetime
) -> Iterator[Grant]:
    """Yield one grant per reset period; what is left of it after its own is there for one more."""
    for begin in [start, *entitled.resets(start, until)]:
        yield replace(
            _allowance(f"{entitled.holding.subscription.id}/{begin:%Y-%m-%d}", terms, begin, None),
            expires_at=cycle.boundary(cycle.number_at(begin) + 2),
            rollover_min=terms.rollover_min or ZERO,
            rollover_max=terms.rollover_max or ZERO,
        )


def _on_top(holding: Holding, terms: Entitlement) -> Grant:
    """Return the quota of a further subscription: full at its own resets, untouched by those of the first."""
    quota = terms.quota or ZERO
    return replace(
        _allowance(f"{holding.subscription.id}/{holding.service.start:%Y-%m-%d}", terms, holding.service.start, None),
        recurrence=_cycle(holding, terms),
        voided_at=holding.service.end,
        rollover_min=ZERO,
        rollover_max=quota,
    )


def _granted(grant: TenantGrant) -> Grant:
    return Grant(
        id=grant.id,
        amount=grant.amount,
        effective_at=grant.starts_at.astimezone(UTC),
        priority=grant.priority,
        expires_at=grant.ends_at,
        created_at=grant.starts_at,
        recurrence=grant.recurrence,
        rollover_min=grant.rollover_min or Decimal(0),
        rollover_max=grant.left_at_most,
    )
