"""Who is entitled to what at an instant: subscriptions, the entitlements of their plans, overrides and grants, resolved.

Enters: the catalog's terms and an instant. Leaves: per tenant and feature one `Entitled`: its entitlement, the grants that
its quota is made of, and when it is reset. Refuses: to look at usage.

Of several subscriptions of a tenant, the one that began first decides how a metered feature is reset and limited (it
leads), and the quotas of the others come on top, each becoming full with its own reset; a boolean feature is on if any says
so; of a static one the subscription that began last decides. A subscription that changes to another plan is followed by
one on that plan. An override stands in the place of its plan's entitlement. A quota that changes counts for the whole reset
period in which it changes. A quota with `rollover_max` is a grant per period, which lives through the next one too; without
it, it is one grant, full at each reset (price models, section 8).

When another subscription or plan leads from an instant on, that is a reset: its quota is full. What was on top (grants of
the tenant, quotas of further subscriptions) goes on with what was left of it, so whoever led before is known, too. Usage
while nothing entitled the tenant, or without a limit, is not taken from what was on top.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from entitlements.burndown import ZERO, Grant
from entitlements.features import QUOTA_PRIORITY_DEFAULT
from metering.clock import iso_utc
from metering.periods import CALENDAR_ANCHOR, BillingCycle, zone
from rating.catalog_times import instant_of
from rating.terms import NEVER, cycle_of, plans_over_time, service_of

if TYPE_CHECKING:
    from entitlements.features import Entitlement
    from metering.periods import Period
    from rating.grants import TenantGrant
    from rating.plans import Plan, Subscription
    from rating.terms import Terms


# What is in force until an instant is in force just before it.
INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Holding:
    """A subscription on one of its plans, and when it is on it."""

    subscription: Subscription
    plan: Plan
    service: Period
    began: datetime

    @property
    def source(self) -> str:
        return f"plan {self.plan.name}/{self.plan.version}"

    @property
    def order(self) -> tuple[datetime, str]:
        """Return what sorts holdings by who leads: the subscription that began first, whatever plan it is on now."""
        return self.began, self.subscription.id


@dataclass(frozen=True, slots=True)
class Lead:
    """Over [start, end) one holding decides how a metered feature is reset: when its quota begins anew (None: never)."""

    start: datetime
    end: datetime
    cycle: BillingCycle | None = None
    keeps_overage: bool = False

    def last_reset(self, at: datetime) -> datetime:
        if self.cycle is None:
            return self.start
        return max(self.start, _period_at(self.cycle, min(at, self.end - INSTANT)).start)

    def resets(self, after: datetime, until: datetime) -> tuple[datetime, ...]:
        """Return the resets in (after, until] that lie inside; its own beginning is not one of them."""
        after, until = max(after, self.start), min(until, self.end)
        return () if self.cycle is None or until <= after else _boundaries(self.cycle, after, until)


@dataclass(frozen=True, slots=True)
class Entitled:
    """One feature of one tenant at an instant. The last four are of metered ones only.

    `leads` are those who led until then, in the order of time; the last one leads at the instant. What was used in spans
    that are `uncounted` is not taken from grants.
    """

    tenant: str
    entitlement: Entitlement
    source: str
    holding: Holding
    leads: tuple[Lead, ...] = ()
    grants: tuple[Grant, ...] = ()
    is_limited: bool = False
    uncounted: tuple[tuple[datetime, datetime], ...] = ()

    @property
    def measured_from(self) -> datetime:
        """Return when usage began to count at all."""
        return self.leads[0].start

    @property
    def cycle(self) -> BillingCycle | None:
        """Return when usage begins to count anew, at the instant. None: never."""
        return self.leads[-1].cycle

    def resets(self, after: datetime, until: datetime) -> list[datetime]:
        """Return the resets in (after, until]."""
        return sorted({reset for reset, _ in self._resets(after, until)})

    def keeping(self, after: datetime, until: datetime) -> frozenset[datetime]:
        """Return the resets in (after, until] that keep what was over; the others forgive it."""
        return frozenset(reset for reset, keeps in self._resets(after, until) if keeps)

    def _resets(self, after: datetime, until: datetime) -> Iterator[tuple[datetime, bool]]:
        for number, lead in enumerate(self.leads):
            # Who leads from an instant on begins with a full quota, and without what others left over.
            if number and after < lead.start <= until:
                yield lead.start, False
            for reset in lead.resets(after, until):
                # At its end somebody else begins.
                if reset < lead.end or number == len(self.leads) - 1:
                    yield reset, lead.keeps_overage

    def counts(self, at: datetime) -> bool:
        """Return whether what is used at an instant is taken from grants."""
        return not any(start <= at < end for start, end in self.uncounted)

    def last_reset(self, at: datetime) -> datetime:
        """Return where usage began to count at an instant: the last reset, or the beginning."""
        begun = [lead for lead in self.leads if lead.start <= at]
        return (begun[-1] if begun else self.leads[0]).last_reset(at)

    def next_reset(self, at: datetime) -> datetime | None:
        """Return the first reset after an instant at which it still runs."""
        if self.cycle is None:
            return None
        reset = _period_at(self.cycle, at).end
        return reset if reset < self.leads[-1].end else None

    def window(self, at: datetime) -> tuple[datetime, datetime | None]:
        """Return the window [start, end) of a hard limit at an instant: between two resets, while it runs. None: open."""
        end = self.leads[-1].end
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


def holdings_of(subscription: Subscription, terms: Terms) -> list[Holding]:
    """Return a subscription on its plans, one after the other."""
    plans = plans_over_time(terms, subscription)
    return [Holding(subscription, plan, service, plans[0][1].start) for plan, service in plans]


def resolve(
    terms: Terms, grants: Iterable[TenantGrant], at: datetime, *, tenant: str | None = None
) -> tuple[dict[str, list[Entitled]], dict[str, set[str]]]:
    """Return per tenant what it is entitled to at an instant, and the features of its other times."""
    begun: dict[str, list[Holding]] = {}
    elsewhen: dict[str, set[str]] = {}
    for subscription in terms.subscriptions:
        if tenant is not None and subscription.tenant != tenant:
            continue
        for holding in holdings_of(subscription, terms):
            if holding.service.start <= at:
                begun.setdefault(subscription.tenant, []).append(holding)
            if at not in holding.service:
                named = {one.feature for one in holding.plan.entitlements}
                elsewhen.setdefault(subscription.tenant, set()).update(named)
    given: dict[tuple[str, str], list[TenantGrant]] = {}
    for grant in grants:
        given.setdefault((grant.tenant, grant.feature), []).append(grant)
    found = {
        name: _of_tenant(name, holdings, given, at)
        for name, holdings in begun.items()
        if any(at in holding.service for holding in holdings)
    }
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
    # Until when it does not matter since when somebody is on a plan, and the time zone of its dates.
    resets: dict[tuple[str, int], tuple[datetime, str]] = {}
    for subscription in terms.subscriptions:
        if subscription.entitlements or subscription.changes or subscription.tenant in special:
            others.append(subscription)
        else:
            on = subscription.plan, subscription.version
            if on not in resets:
                (holding,) = holdings_of(subscription, terms)
                resets[on] = _calendar_reset(holding, at), holding.plan.billing_period.timezone
            bound, timezone = resets[on]
            starts = None if instant_of(subscription.starts_at, timezone) <= bound else subscription.starts_at
            key = *on, starts, subscription.ends_at
            same.setdefault(key, []).append(subscription)
    found = []
    for subscriptions in same.values():
        entitled, _ = resolve(replace(terms, subscriptions=subscriptions[:1]), (), at)
        held = entitled.get(subscriptions[0].tenant, [])
        if held and all(is_plain(one, at) for one in held):
            found.append((held, [subscription.tenant for subscription in subscriptions]))
        else:
            others += subscriptions
    return found, replace(terms, subscriptions=sorted(others, key=lambda one: one.id))


def changes_of(held: Iterable[Entitled], subscription: Subscription, terms: Terms, at: datetime) -> Iterator[datetime]:
    """Yield instants at which what a tenant holds may change though nothing is used; some may be before `at`.

    Of each entitlement the next reset, and beginnings, ends and the next recurrence of its grants; of the subscription
    its beginning and end, and those of its overrides.
    """
    for holding in holdings_of(subscription, terms):
        yield holding.service.start
        yield holding.service.end
        for override in subscription.entitlements:
            yield from _times(override, holding)
    for one in held:
        if one.leads and one.cycle is not None:
            yield _period_at(one.cycle, at).end
        for grant in one.grants:
            yield grant.effective_at
            yield grant.ends_at
            if grant.recurrence is not None:
                yield _period_at(grant.recurrence, at).end


def _calendar_reset(holding: Holding, at: datetime) -> datetime:
    """Return the instant until which it is all the same when somebody began: the earliest last reset by the calendar."""
    last = [at]
    for one in holding.plan.entitlements:
        if one.type == "metered":
            by_period = one.reset in {None, "billing_period"}
            anchor = holding.plan.billing_period.anchor if by_period else one.reset_anchor
            cycle = None if anchor == "subscription" else _cycle(holding, one)
            if cycle is None:
                return datetime.min.replace(tzinfo=UTC)
            last.append(_period_at(cycle, at).start)
    return min(last)


def is_plain(entitled: Entitled, at: datetime) -> bool:
    """Return whether what is left is the quota minus what was used since the last reset, whatever was before."""
    if entitled.entitlement.type != "metered" or not entitled.is_limited:
        return True
    (grant, *more), keeps = entitled.grants, entitled.entitlement.keep_overage
    is_full = grant.rollover_min == grant.rollover_max == grant.amount and grant.is_active(at)
    return not more and not keeps and is_full


def _of_tenant(
    tenant: str, begun: list[Holding], given: dict[tuple[str, str], list[TenantGrant]], at: datetime
) -> list[Entitled]:
    begun.sort(key=lambda one: (*one.order, one.service.start))
    said: dict[str, list[tuple[Holding, Entitlement, str]]] = {}
    for holding in begun:
        for entitlement, source in _in_force(holding, at) if at in holding.service else ():
            said.setdefault(entitlement.feature, []).append((holding, entitlement, source))
    found = []
    for feature, ways in said.items():
        metered = [one for one in ways if one[1].type == "metered"]
        if metered:
            found.append(_metered(tenant, metered, begun, given.get((tenant, feature), ()), at))
            continue
        on = [one for one in ways if one[1].enabled is not False] or ways
        holding, entitlement, source = on[-1]
        found.append(Entitled(tenant, entitlement, source, holding))
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


@dataclass(frozen=True, slots=True)
class _Life:
    """A holding meters a feature over [start, end); `terms` is what it says of it, from when on, in the order of time."""

    holding: Holding
    start: datetime
    end: datetime
    terms: tuple[tuple[datetime, Entitlement], ...]

    def at(self, at: datetime) -> Entitlement:
        """Return what it says at an instant, and what it said last when it is over."""
        return [entitlement for start, entitlement in self.terms if start <= at][-1]


def _metered(
    tenant: str,
    ways: Sequence[tuple[Holding, Entitlement, str]],
    begun: Sequence[Holding],
    given: Sequence[TenantGrant],
    at: datetime,
) -> Entitled:
    holding, entitlement, source = ways[0]
    same = [one for _, one, _ in ways if one.meter == entitlement.meter]
    lives = [life for one in begun for life in _lives(one, entitlement, at)]
    led = _led(lives, at)
    leads = tuple(lead for lead, _ in led)
    grants: list[Grant] = []
    uncounted = [(before.end, after.start) for before, after in pairwise(leads) if before.end < after.start]
    leading = {id(life): lead for lead, life in led if lead.start == life.start}
    for life in lives:
        if (lead := leading.get(id(life))) is None:
            grants += _on_top(life, at)
            uncounted += [] if life.at(at).quota is not None or life.end > at else [(life.start, life.end)]
            continue
        for start, end, terms in _stretches(life, lead, at):
            if terms.quota is not None:
                grants += _allowances(life, lead, terms, start, end, at)
            elif end is not None:
                uncounted.append((start, end))
        if lead.end <= at and lead.end < life.end:
            # Somebody else leads since, and its own quota goes on on top.
            grants += _on_top(replace(life, start=lead.end), at)
    grants += [_granted(one) for one in given]
    is_limited = all(one.quota is not None for one in same)
    return Entitled(tenant, entitlement, source, holding, leads, tuple(grants), is_limited, tuple(sorted(uncounted)))


def _lives(holding: Holding, entitlement: Entitlement, at: datetime) -> Iterator[_Life]:
    """Yield when a holding meters the feature of an entitlement by the same meter, of all that began until the instant."""
    service, feature = holding.service, entitlement.feature
    overrides = [one for one in holding.subscription.entitlements if one.feature == feature]
    times = {time for one in overrides for time in _times(one, holding) if service.start < time < service.end}
    terms: list[tuple[datetime, Entitlement]] = []
    for change in (service.start, *sorted(times)):
        held = [one for one, _ in _in_force(holding, change) if one.feature == feature]
        if held and held[0].type == "metered" and held[0].meter == entitlement.meter:
            terms.append((change, held[0]))
        elif terms:
            if terms[0][0] <= at:
                yield _Life(holding, terms[0][0], change, tuple(terms))
            terms = []
    if terms and terms[0][0] <= at:
        yield _Life(holding, terms[0][0], service.end, tuple(terms))


def _led(lives: Sequence[_Life], at: datetime) -> list[tuple[Lead, _Life]]:
    """Return who led from when to when until an instant: of all who run the one that began first."""
    found: list[tuple[Lead, _Life]] = []
    start = min(life.start for life in lives)
    while start <= at:
        running = [life for life in lives if life.start <= start < life.end]
        if not running:
            later = [life.start for life in lives if life.start > start]
            if not later:
                break
            start = min(later)
            continue
        life = min(running, key=lambda one: one.holding.order)
        # One that began earlier may be given the feature later.
        sooner = [one.start for one in lives if start < one.start < life.end and one.holding.order < life.holding.order]
        end = min([life.end, *sooner])
        said = life.at(min(at, end - INSTANT))
        found.append((Lead(start, end, _cycle(life.holding, said), bool(said.keep_overage)), life))
        start = end
    return found


def _cycle(holding: Holding, entitlement: Entitlement) -> BillingCycle | None:
    """Return when a quota begins anew."""
    if entitlement.reset == "never":
        return None
    if entitlement.reset in {None, "billing_period"}:
        return cycle_of(holding.subscription, holding.plan)
    timezone = holding.plan.billing_period.timezone
    anchor = CALENDAR_ANCHOR
    if entitlement.reset_anchor == "subscription":
        start = service_of(holding.subscription, holding.plan).start
        anchor = start.astimezone(zone(timezone)).replace(tzinfo=None)
    return BillingCycle(entitlement.reset, anchor, timezone)  # type: ignore[arg-type]


def _stretches(life: _Life, lead: Lead, at: datetime) -> Iterator[tuple[datetime, datetime | None, Entitlement]]:
    """Yield what the quota of one who leads was, from when to when; None: still is.

    A quota that changes counts for the whole period in which it changes, so a stretch begins with the period.
    """
    stretches = {lead.last_reset(start): terms for start, terms in life.terms if start <= at and start < lead.end}
    ends = [*list(stretches)[1:], lead.end if lead.end <= at else None]
    for (start, terms), end in zip(stretches.items(), ends, strict=True):
        yield start, end, terms


def _allowances(
    life: _Life, lead: Lead, terms: Entitlement, start: datetime, end: datetime | None, at: datetime
) -> Iterator[Grant]:
    """Yield the grants that a quota is made of; with a rollover one per reset period, which is there for one more."""
    if terms.rollover_max is None or lead.cycle is None:
        yield _allowance(life, terms, start, end)
        return
    gone = lead.end if lead.end <= at else None
    for begin in (start, *lead.resets(start, at if end is None else min(end, at))):
        if begin < lead.end:
            yield replace(
                _allowance(life, terms, begin, gone),
                expires_at=lead.cycle.boundary(lead.cycle.number_at(begin) + 2),
                rollover_min=terms.rollover_min or ZERO,
                rollover_max=terms.rollover_max or ZERO,
            )


def _allowance(life: _Life, terms: Entitlement, start: datetime, end: datetime | None) -> Grant:
    quota = terms.quota or ZERO
    # Two plans of one day have two quotas.
    is_date = start == start.replace(hour=0, minute=0, second=0, microsecond=0)
    return Grant(
        id=f"{life.holding.subscription.id}/{f'{start:%Y-%m-%d}' if is_date else iso_utc(start)}",
        amount=quota,
        effective_at=start,
        priority=QUOTA_PRIORITY_DEFAULT if terms.priority is None else terms.priority,
        voided_at=end,
        created_at=start,
        rollover_min=quota,
        rollover_max=quota,
    )


def _on_top(life: _Life, at: datetime) -> list[Grant]:
    """Return the quota of a further subscription: full at its own resets, untouched by those of the first."""
    terms = life.at(at)
    if terms.quota is None:
        return []
    return [
        replace(
            _allowance(life, terms, life.start, life.end),
            recurrence=_cycle(life.holding, terms),
            rollover_min=ZERO,
            rollover_max=terms.quota,
        )
    ]


def _granted(grant: TenantGrant) -> Grant:
    return Grant(
        id=grant.id,
        amount=grant.amount,
        effective_at=grant.starts_at.astimezone(UTC),
        priority=grant.priority,
        expires_at=grant.ends_at,
        voided_at=grant.voided_at,
        created_at=grant.starts_at,
        recurrence=grant.recurrence,
        rollover_min=grant.rollover_min or Decimal(0),
        rollover_max=grant.left_at_most,
    )
