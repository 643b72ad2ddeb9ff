"""What tenants used beyond what they are entitled to, over a period: what reconciliation compares with what was charged.

Enters: a workspace and a wall period. Leaves: ENTITLED_USE, one row per (tenant, feature, subscription) that used more than its
grants: what was used and over-used in the period, in units of the meter. Refuses: to look at prices.

Each subscription is looked at over its own part of the period, in the zone of its plan, up to now. What is beyond all grants is
worked out where prices ask it too (rating.granted), so the two cannot disagree.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

from rating.entitled import INSTANT, resolve
from rating.granted import Part, beyond
from rating.terms import Terms, service_of
from tallybook.entitlements import Entitlements

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    import pyarrow as pa

    from metering.periods import WallPeriod
    from metering.usage import Snapshot
    from rating.entitled import Entitled
    from rating.grants import TenantGrant
    from rating.plans import Subscription
    from tallybook.workspace import Workspace

Row = tuple[str, str, str, str, Decimal, Decimal]


def entitled_use(workspace: Workspace, wall: WallPeriod, evidence: tuple[list[str], Snapshot]) -> pa.Table:
    """Return ENTITLED_USE of a period at a cut of the lake; empty where nobody has a quota."""
    from billing_adapters.reconciliation import entitled_use_schema

    catalog = workspace.catalog_or_empty()
    terms = catalog.terms()
    parts = [
        part
        for until, held in _by_end(terms, wall, workspace.now).items()
        for part in _parts(replace(terms, subscriptions=held), catalog.grants, wall, until, workspace.now)
    ]
    asking = Entitlements.of_terms(workspace, workspace.now, terms, catalog.grants, evidence)
    found = zip(parts, beyond(parts, asking.meters, asking.usage), strict=True)
    rows = [_row(part.entitled, one.used, one.over_used) for part, one in found if one.over_used > 0]
    return entitled_use_schema().empty_table() if not rows else _table(rows)


def _by_end(terms: Terms, wall: WallPeriod, now: datetime) -> dict[datetime, list[Subscription]]:
    """Return the subscriptions of the tenants of whom one has a part of the period that ends at an instant, by it."""
    ends: dict[datetime, set[str]] = {}
    of_tenant: dict[str, list[Subscription]] = {}
    for subscription in terms.subscriptions:
        plan = terms.plan_of(subscription)
        service, period = service_of(subscription, plan), wall.in_zone(plan.billing_period.timezone)
        of_tenant.setdefault(subscription.tenant, []).append(subscription)
        until = min(service.end, period.end, now)
        if max(service.start, period.start) < until:
            ends.setdefault(until, set()).add(subscription.tenant)
    return {until: [one for name in sorted(names) for one in of_tenant[name]] for until, names in sorted(ends.items())}


def _parts(
    terms: Terms, grants: Sequence[TenantGrant], wall: WallPeriod, until: datetime, now: datetime
) -> Iterator[Part]:
    """Yield what is metered with a limit at the end of a part, and from when to when it is looked at."""
    for held in resolve(terms, grants, until - INSTANT)[0].values():
        for one in held:
            period = wall.in_zone(one.holding.plan.billing_period.timezone)
            since = max(period.start, one.measured_from)
            # Others of the tenant end at another instant, and are looked at there.
            is_its_end = until == min(one.holding.service.end, period.end, now)
            if one.entitlement.type == "metered" and one.is_limited and is_its_end and since < until:
                yield Part(one, since, until)


def _row(entitled: Entitled, used: Decimal, over: Decimal) -> Row:
    entitlement = entitled.entitlement
    overage = "blocked" if entitlement.stops else "allowed"
    return entitled.tenant, entitlement.feature, entitlement.meter or "", overage, used, over


def _table(rows: list[Row]) -> pa.Table:
    import pyarrow as pa

    from billing_adapters.reconciliation import entitled_use_schema

    schema = entitled_use_schema()
    columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)]
    return pa.table(columns, schema=schema)
