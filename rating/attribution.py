"""Whose usage is, and what of it reached prices and rating: control points P3 and P4, counted by the close that rates it.

Enters: an engine in which a close was rated (`rating.run.rated`), the close, its terms. Leaves: control points of the period.
Refuses: what was kept of earlier ratings (`rating.kept`). Usage is aggregated once more where rating may have read kept
worth, so that worth that was kept in error differs from what attribution hands over, and is found.

Two grains, because two things are compared. Usage events by the UTC dates of the period, as the lake holds them: P3
`subscribed`, `no_subscription`, `unknown_tenant`, `late_usage_refused`. And billing periods that belong to the
period, as prices have them: P3 `priced`, what prices are handed, and P4 `rated`, what rating made of it, both cumulative.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metering.control_points import ATTRIBUTED, RATED, ControlPoint
from metering.engine import fetch, read_sql
from metering.periods import Period
from metering.usage import aggregate
from rating.late import limits_between, limits_of_spans, refuse_late
from rating.rate import overflow_named
from rating.tables import load_table
from rating.terms import billing_spans, load_terms, plans_over_time, usage_questions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    import duckdb

    from metering.rollups import Rollups
    from rating.close import Close
    from rating.terms import Terms


def attribution_points(
    engine: duckdb.DuckDBPyConnection, close: Close, terms: Terms, rollups: Rollups | None
) -> list[ControlPoint]:
    """Return the points of a close; the last that is asked of its engine, whose `usage` and `late_event` are replaced.

    `rollups` are there where rating may have read kept worth. Raises AmountOverflow where a total does not fit.
    """
    with overflow_named(engine):
        engine.execute(read_sql("rating", "price_as_metered"))
        found = list(_points(engine, close, RATED, "point_rated"))
        if rollups is not None:
            spans = billing_spans(terms, close.wall)
            load_terms(engine, terms, spans)
            refuse_late(engine, limits_of_spans(terms, spans))
            aggregate(engine, *usage_questions(terms, spans), rollups=rollups)
        found += _points(engine, close, ATTRIBUTED, "point_priced", as_of=close.as_of)
        dates = Period(close.period_start, close.period_end)
        refuse_late(engine, limits_between(terms, dates))
        load_table(engine, "service_time", _SERVICE_COLUMNS, list(_service_times(terms, dates)))
        load_table(engine, "tenant_of_terms", {"tenant_id": "text"}, [(tenant,) for tenant in sorted(terms.tenants())])
        found += _points(
            engine, close, ATTRIBUTED, "point_attributed", start_instant=dates.start, end_instant=dates.end
        )
    return found


_SERVICE_COLUMNS = {"tenant_id": "text", "service_start": "instant", "service_end": "instant"}


def _points(
    engine: duckdb.DuckDBPyConnection, close: Close, point: str, statement: str, **values: Any
) -> Iterator[ControlPoint]:
    reason = statement.removeprefix("point_")
    for row in fetch(engine, read_sql("rating", statement), values or None).to_pylist():
        yield ControlPoint(
            **{
                "reason": reason, **row, "point": point, "batch_id": close.close_id, "written_at": close.as_of,
                "previous_batch_id": close.snapshot.snapshot_id,
                "period_start": close.period_start, "period_end": close.period_end,
            }
        )  # fmt: skip


def _service_times(terms: Terms, dates: Period) -> Iterator[tuple[str, datetime, datetime]]:
    """Yield when each tenant has a subscription within the dates, times that meet or overlap put together."""
    times: dict[str, list[tuple[datetime, datetime]]] = {}
    for subscription in terms.subscriptions:
        for _, phase in plans_over_time(terms, subscription):
            start, end = max(phase.start, dates.start), min(phase.end, dates.end)
            if start < end:
                times.setdefault(subscription.tenant, []).append((start, end))
    for tenant, parts in sorted(times.items()):
        first, last = min(parts)
        for start, end in sorted(parts):
            if start > last:
                yield tenant, first, last
                first = start
            last = max(last, end)
        yield tenant, first, last
