"""Totals of windows for a provider that prices usage, where a newer total takes the place of an older one (Stripe's meters).

Enters: a workspace, and which meters the provider knows by which names. Leaves: intents of the windows that are over, the last
days of them again, so that what came late is told. Refuses: meters that do not add up over time (only sums and counts do).

A window that was told and did not change is the same delivery, so telling it again is free. A window that changed after
`retell_days` is not told again: what is missing is a difference that reconciliation shows. Run it within that time, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import select

from billing_adapters.books import deliveries
from billing_adapters.usage_totals import UsageTotal
from metering.numbers import exact_difference, exact_sum
from tallybook.books import reading
from tallybook.entitlements import Entitlements
from tallybook.errors import BadSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from billing_adapters.adapter import Adapter, Intent
    from tallybook.workspace import Workspace

LENGTHS = {"hour": timedelta(hours=1), "day": timedelta(days=1)}
ADDITIVE = frozenset({"sum", "count"})
RETELL_DAYS = 2
KEYS_AT_ONCE = 500
ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """`meters`: our name to the provider's. `window` is that of the provider's meters, `hour` or `day`, in UTC."""

    meters: Mapping[str, str]
    window: Literal["hour", "day"]
    settle: timedelta
    retell: timedelta
    until: datetime | None = None

    @classmethod
    def taken_from(cls, options: dict[str, Any], settle: timedelta) -> WindowSettings:
        """Take its keys out of a section of the settings. Raises BadSettings."""
        window = options.pop("window", "hour")
        if window not in LENGTHS:
            raise BadSettings(f"window is hour or day, not {window!r}")
        days = options.pop("retell_days", RETELL_DAYS)
        try:
            retell = timedelta(days=days)
        except (TypeError, OverflowError) as refused:
            raise BadSettings(f"retell_days is {days!r}; write a number of days, such as {RETELL_DAYS}") from refused
        return cls(meters=options.pop("meters", {}), window=window, settle=settle, retell=retell)


def window_intents(workspace: Workspace, adapter: Adapter, settings: WindowSettings, since: datetime) -> list[Intent]:
    """Return the intents of the windows that can be told now, of every billing account and meter, in the order of time.

    Per account, because to the provider a window has one total per customer: that of all tenants of the account.
    """
    begin, edges = _edges(workspace, settings, since)
    if len(edges) < 2:
        return []
    accounts = [account for account in workspace.catalog_or_empty().accounts if account.tenants]
    asked = [
        (tenant, meter, begin, edge)
        for account in accounts
        for tenant in account.tenants
        for meter in settings.meters
        for edge in edges
        if edge > begin
    ]
    used = dict(zip(asked, Entitlements(workspace).used(asked) if asked else [], strict=True))
    made: list[Intent] = []
    for account in accounts:
        for meter, name in settings.meters.items():
            ledger = [
                exact_sum([used.get((tenant, meter, begin, edge), ZERO) for tenant in account.tenants])
                for edge in edges
            ]
            for (start, end), (before, after) in zip(pairwise(edges), pairwise(ledger), strict=True):
                quantity = exact_difference(after, before)
                made += adapter.prepare(UsageTotal(account.id, account.id, name, start, end, quantity, before=before))
    return _worth_telling(workspace, adapter, made)


def _edges(workspace: Workspace, settings: WindowSettings, since: datetime) -> tuple[datetime, list[datetime]]:
    """Return from when on the ledger counts, and the edges of the windows to tell."""
    meters = workspace.terms_or_empty().meters
    for meter in settings.meters:
        if meter not in meters or meters[meter].aggregation not in ADDITIVE:
            raise BadSettings(
                f"[delivery.stripe_meters] names meter {meter!r}, which is no sum or count of the catalog"
            )
    length, now = LENGTHS[settings.window], workspace.now
    begin = _floor(since, length)
    edges = [max(begin, _floor(now - settings.retell, length))]
    complete_until = now - settings.settle if settings.until is None else min(now - settings.settle, settings.until)
    while edges[-1] + length <= complete_until:
        edges.append(edges[-1] + length)
    return begin, edges


def _worth_telling(workspace: Workspace, adapter: Adapter, intents: Sequence[Intent]) -> list[Intent]:
    """Return the intents but those of windows in which nothing was used and nothing was ever told."""
    name = adapter.capabilities.name
    keys = [intent.natural_key for intent in intents if not intent.quantity]
    told: set[str] = set()
    with reading(workspace.books) as connection:
        for at in range(0, len(keys), KEYS_AT_ONCE):
            part = keys[at : at + KEYS_AT_ONCE]
            query = select(deliveries.c.natural_key).where(
                deliveries.c.adapter == name, deliveries.c.natural_key.in_(part)
            )
            told.update(connection.scalars(query))
    return [intent for intent in intents if intent.quantity or intent.natural_key in told]


def _floor(instant: datetime, length: timedelta) -> datetime:
    midnight = instant.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + (instant - midnight) // length * length
