"""Usage that is told too late, where a plan says how late is too late: refused, counted, never silently.

Enters: the subscriptions and their plans, an engine with the stored usage events. Leaves: the table `late_event`, the
events that are not billed for that reason; `usage_event` is without them, the conservation statement counts them.
Refuses: to refuse by default. Without `late_usage_days` no event is ever too late; with it, usage recorded more than so
many days after the end of its billing period is. Of several plans of a tenant at one time the most lenient decides.
Corrections of events are never too late. What is late follows from the terms and from when an event was used and recorded, never
from what was closed or is rated now: a level that is carried into a span, and tiers that go on, are without what was refused
in a period that nobody ever closed. Use before any subscription is of no billing period, and counts. Source: price models,
section 6.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING

from metering.engine import read_sql
from metering.periods import Period
from rating.included_from import features_of
from rating.price_ids import is_since_plan
from rating.tables import load_table

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    import duckdb

    from rating.plans import Plan
    from rating.spans import BillingSpans
    from rating.terms import Terms

_COLUMNS = {
    "tenant_id": "text", "service_start": "instant", "service_end": "instant", "recorded_before": "instant",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class LateLimit:
    """Usage of a tenant in [service_start, service_end) counts if it was recorded before an instant; None: whenever."""

    tenant_id: str
    service_start: datetime
    service_end: datetime
    recorded_before: datetime | None


def limits_of_spans(terms: Terms, spans: BillingSpans) -> Iterator[LateLimit]:
    """Yield the limits of all use that billing spans read; none where no plan has one, for then nothing is too late.

    Of each tenant of the spans those of all its subscriptions, rated now or not: for the time of the spans, and since ever
    where a price reads what was before it.
    """
    if len(spans) and any(plan.late_usage_days is not None for plan in terms.plans.values()):
        start = min(stretch.service.start for stretch in spans.stretches)
        plans = {stretch.plan_key: terms.plans[stretch.plan_key] for stretch in spans.stretches}
        if any(_reads_history(plan, terms) for plan in plans.values()):
            start = datetime.min.replace(tzinfo=UTC)
        dates = Period(start, max(stretch.service.end for stretch in spans.stretches))
        yield from limits_between(terms, dates, set(spans.tenants))


def _reads_history(plan: Plan, terms: Terms) -> bool:
    """Return whether a price looks at use before its span: a carried level, tiers that go on, what grants are left with."""
    return bool(features_of(plan.prices)) or any(
        is_since_plan(price) or any(terms.meters[name].carry == "recurring" for name in price.meters_read)
        for price in plan.prices
    )


def limits_between(terms: Terms, dates: Period, tenants: Collection[str] | None = None) -> Iterator[LateLimit]:
    """Yield the limits of every billing period that meets the dates, whenever it ends; each plan limits its own time.

    With `tenants`, only theirs, whichever of their subscriptions are rated.
    """
    from rating.terms import cycle_of, plans_over_time

    # Where only some subscriptions are rated, the others still say what is too late.
    everyone = terms.subscriptions if tenants is None else chain.from_iterable(terms.entitling or [terms.subscriptions])
    for subscription in everyone:
        if tenants is not None and subscription.tenant not in tenants:
            continue
        for plan, phase in plans_over_time(terms, subscription):
            cycle, days = cycle_of(subscription, plan), plan.late_usage_days
            start, end = max(phase.start, dates.start), min(phase.end, dates.end)
            while start < end:
                period = cycle.period_at(start)
                until = None if days is None else period.end + timedelta(days=days)
                yield LateLimit(subscription.tenant, start, min(end, period.end), until)
                start = period.end


def refuse_late(engine: duckdb.DuckDBPyConnection, limits: Iterable[LateLimit]) -> None:
    """Make `late_event`: the usage events that every limit of their tenant and time refuses. Idempotent.

    Costs nothing where no plan refuses anything; else one look at the events of the tenants concerned.
    """
    engine.execute(read_sql("metering", "late_event"))
    all_ = list(limits)
    strict = {limit.tenant_id for limit in all_ if limit.recorded_before is not None}
    if strict:
        rows = [
            (limit.tenant_id, limit.service_start, limit.service_end, limit.recorded_before)
            for limit in all_
            if limit.tenant_id in strict
        ]
        load_table(engine, "late_limit", _COLUMNS, rows)
        engine.execute(read_sql("rating", "refuse_late"))
