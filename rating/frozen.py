"""Final invoices that stay as they are, where a plan says so: what is found later is not booked, and never silently.

Enters: the terms, billing spans, the periods that were invoiced to their end, and the one that is being invoiced. Leaves: the
spans for which nothing more is booked. Refuses: to change what a span is worth: the conservation statement says what the
frozen ones come to (`late_frozen`). The switch `late_usage`: `correct` (ours) books every finding, `frozen` none, and
`two_periods` those of the last two billing periods. Source: price models, sections 6.4 and 10.

A span is frozen when its period was invoiced to its end. What a subscription owes whatever it used is booked all the same
where nothing at all was booked for the span: there is no invoice that would change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metering.engine import read_sql
from rating.tables import load_table
from rating.terms import cycle_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import duckdb

    from metering.periods import WallPeriod
    from rating.plans import Plan
    from rating.spans import BillingSpan, BillingSpans
    from rating.terms import Terms

PERIODS_BACK = 2


def frozen_spans(
    terms: Terms, spans: BillingSpans, complete_periods: Callable[[], Sequence[WallPeriod]], current: WallPeriod
) -> list[int]:
    """Return the numbers of the spans for which nothing more is booked. Costs nothing where no plan in use freezes."""
    policies = {key: terms.plans[key].reading["late_usage"] for key in {one.plan_key for one in spans.stretches}}
    if all(policy == "correct" for policy in policies.values()):
        return []
    complete = complete_periods()
    subscribed = {one.id: one for one in terms.subscriptions}
    found = []
    for span in spans:
        policy, plan = policies[span.plan_key], terms.plans[span.plan_key]
        if policy == "correct" or not _is_complete(span, plan, complete):
            continue
        if policy == "two_periods":
            cycle = cycle_of(subscribed[span.subscription_id], plan)
            first = cycle.number_at(current.in_zone(cycle.timezone).start)
            if first - cycle.number_at(span.period.start) <= PERIODS_BACK:
                continue
        found.append(span.span_id)
    return found


def freeze(engine: duckdb.DuckDBPyConnection, frozen: Iterable[int]) -> None:
    """Take the lines of frozen spans out of `line_to_book`."""
    rows = [(number,) for number in frozen]
    if rows:
        load_table(engine, "frozen_span", {"span_id": "int"}, rows)
        engine.execute(read_sql("rating", "scope_frozen"))


def _is_complete(span: BillingSpan, plan: Plan, complete: Sequence[WallPeriod]) -> bool:
    """Return whether the period to which a span belongs, by its last instant, was invoiced to its end."""
    periods = (wall.in_zone(plan.billing_period.timezone) for wall in complete)
    return any(period.start < span.period.end <= period.end for period in periods)
