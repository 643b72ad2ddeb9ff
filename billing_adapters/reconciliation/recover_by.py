"""Until when what a break says can still be billed: the earliest deadline on the way, less what a run itself takes.

Enters: rows of BREAK, the terms, and the windows of the providers that bill by a tenant's usage. Leaves: the same rows with
`recover_by` and, where a provider sets it, `adapter`. Refuses: to guess. Where nothing on the way has a deadline there is none.

Two deadlines. A provider takes usage for so long after it was used (its adapter declares the window as data). A plan with
`late_usage_days` takes usage that is recorded so long after its billing period: that counts for what must be recorded again,
not for what is stored and has no price yet. Over-billing is corrected by a credit, which has no deadline here.
Source: the catalogue of controls, section 6.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from rating.terms import cycle_of, plans_over_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from billing_adapters.adapter import Window
    from rating.terms import Terms

Row = dict[str, Any]


class Accepts(NamedTuple):
    """Until when an adapter's provider takes usage that it bills by: of some meters, or, with None, of all."""

    adapter: str
    window: Window
    meters: frozenset[str] | None = None


MARGIN = timedelta(minutes=15)
_RECOVERABLE = frozenset({"AT_RISK", "TIMING"})
# What these points find is not stored: it must be recorded again.
_NOT_STORED = frozenset({"P0", "P1", "P2"})


def add_deadlines(
    breaks: Sequence[Row],
    points: Mapping[str, str],
    terms: Terms,
    windows: Mapping[str, Sequence[Accepts]],
) -> list[Row]:
    """Return the breaks with their deadlines; `points` says where each control looks, `windows` has by
    tenant the adapters that bill by its usage, each with how long its provider takes it. Instants in UTC, the end is open."""
    return [_with_deadline(row, points.get(row["control_id"], ""), terms, windows) for row in breaks]


def _with_deadline(row: Row, point: str, terms: Terms, windows: Mapping[str, Sequence[Accepts]]) -> Row:
    instant = row["occurred_at"]
    if row["recover_by"] is not None or row["class"] not in _RECOVERABLE or instant is None or row["tenant_id"] is None:
        return row
    ends = [
        (deadline, adapter)
        for adapter, window, meters in windows.get(row["tenant_id"], ())
        if (meters is None or row["meter"] is None or row["meter"] in meters)
        and (deadline := window.recover_by(instant)) is not None
    ]
    if point in _NOT_STORED and (late := _late_policy(terms, row["tenant_id"], instant)) is not None:
        ends.append((late, ""))
    if not ends:
        return row
    deadline, adapter = min(ends)
    return {**row, "recover_by": deadline - MARGIN, "adapter": row["adapter"] or adapter or None}


def _late_policy(terms: Terms, tenant_id: str, instant: datetime) -> datetime | None:
    """Return until when usage of an instant may be recorded and is billed: of several plans the most lenient decides."""
    ends: list[datetime | None] = []
    for subscription in terms.subscriptions:
        if subscription.tenant != tenant_id:
            continue
        for plan, phase in plans_over_time(terms, subscription):
            if phase.start <= instant < phase.end:
                days = plan.late_usage_days
                period = cycle_of(subscription, plan).period_at(instant)
                ends.append(None if days is None else period.end + timedelta(days=days))
    known = [end for end in ends if end is not None]
    return max(known) if known and len(known) == len(ends) else None
