"""Usage that is told too late, where a plan says how late is too late: refused, counted, never silently.

Enters: the subscriptions and their plans, an engine with the stored usage events. Leaves: the table `late_event`, the
events that are not billed for that reason; `usage_event` is without them, the conservation statement counts them.
Refuses: to refuse by default. Without `late_usage_days` no event is ever too late; with it, usage recorded more than so
many days after the end of its billing period is. Of several plans of a tenant at one time the most lenient decides.
Corrections of events are never too late. Source: price models, section 6.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from metering.engine import read_sql
from rating.tables import load_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    import duckdb

    from metering.periods import Period
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
    """Yield the limit of each billing span; none where no plan in use has one, for then nothing is too late."""
    limited = {
        stretch.plan_key for stretch in spans.stretches if terms.plans[stretch.plan_key].late_usage_days is not None
    }
    for span in spans if limited else ():
        days = terms.plans[span.plan_key].late_usage_days
        until = None if days is None else span.period.end + timedelta(days=days)
        yield LateLimit(span.tenant_id, span.service.start, span.service.end, until)


def limits_between(terms: Terms, dates: Period) -> Iterator[LateLimit]:
    """Yield the limits of every billing period that meets the dates, whenever it ends; each plan limits its own time."""
    from rating.terms import cycle_of, plans_over_time

    for subscription in terms.subscriptions:
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
