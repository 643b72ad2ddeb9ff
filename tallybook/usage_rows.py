"""What every tenant used in a period, priced or not: the rows of `tallybook usage`.

Enters: an open workspace, a wall period, attributes to split by. Leaves: one row per (tenant, meter, values).
Refuses: to leave anything out. Tenants and meters that no catalog knows are there, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import orjson

from metering.measures import PLAIN
from metering.usage import Selector, Span, aggregate, open_evidence
from rating.terms import service_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from metering.periods import Period, WallPeriod
    from rating.terms import Terms
    from tallybook.workspace import Workspace


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One row per (tenant, meter, attributes asked for): what was used in a period, priced or not."""

    tenant_id: str
    meter: str
    unit: str
    period: Period
    attributes: dict[str, str | None]
    event_count: int
    quantity: Decimal
    subscription_ids: tuple[str, ...]


def usage_rows(workspace: Workspace, wall: WallPeriod, by: Sequence[str] = ()) -> list[UsageRow]:
    """Return what every tenant used in a period; see `Workspace.usage`."""
    terms = workspace.terms_or_empty()
    subscriptions = _subscriptions_by_tenant(terms, wall)
    zones = {
        tenant: terms.plan_of(subscription).billing_period.timezone
        for tenant, held in subscriptions.items()
        for subscription in held[:1]
    }
    files, snapshot = workspace.evidence()
    engine = open_evidence(files, snapshot)
    try:
        used = engine.execute("SELECT DISTINCT tenant_id, meter FROM stored_event ORDER BY ALL").fetchall()
        tenants = sorted({tenant for tenant, _ in used})
        periods = [wall.in_zone(zones.get(tenant, "UTC")) for tenant in tenants]
        spans = [
            Span(number, tenant, "usage", span.start, span.end)
            for number, (tenant, span) in enumerate(zip(tenants, periods, strict=True))
        ]
        aggregate(engine, spans, _usage_selectors(terms, sorted({meter for _, meter in used}), by))
        rows = engine.execute(
            "SELECT span_id, meter, group_key, event_count, quantity FROM usage WHERE event_count > 0 ORDER BY ALL"
        ).fetchall()
    finally:
        engine.close()
    return [
        UsageRow(
            tenant_id=tenants[span_id],
            meter=meter,
            unit=terms.meters[meter].unit if meter in terms.meters else "unit",
            period=periods[span_id],
            attributes=_group_values(group_key),
            event_count=event_count,
            quantity=quantity,
            subscription_ids=tuple(held.id for held in subscriptions.get(tenants[span_id], ())),
        )
        for span_id, meter, group_key, event_count, quantity in rows
    ]


def _subscriptions_by_tenant(terms: Terms, wall: WallPeriod) -> dict[str, list[Any]]:
    span = wall.in_zone("UTC")
    # A day on either side covers every zone; the list is for display and for choosing the zone, not for rating.
    start, end = span.start - timedelta(days=1), span.end + timedelta(days=1)
    found: dict[str, list[Any]] = {}
    for subscription in terms.subscriptions:
        service = service_of(subscription, terms.plan_of(subscription))
        if service.start < end and service.end > start:
            found.setdefault(subscription.tenant, []).append(subscription)
    return found


def _usage_selectors(terms: Terms, meters: Sequence[str], by: Sequence[str]) -> list[Selector]:
    selectors = []
    for name in meters:
        meter = terms.meters.get(name)
        aggregation = meter.aggregation if meter else "sum"
        unique_attribute = meter.unique_attribute if meter else None
        measure = meter.measure if meter else PLAIN
        selectors.append(
            Selector("usage", name, name, aggregation, unique_attribute, by=tuple(sorted(set(by))), measure=measure)
        )
    return selectors


def _group_values(group_key: str) -> dict[str, str | None]:
    return orjson.loads(group_key) if group_key else {}
