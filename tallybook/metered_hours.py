"""Hours for a marketplace: what was used beyond each contract of the catalog, hour by hour, as the lake knows it now.

Enters: a workspace, the contracts of its catalog, and who they are at the provider (`licences` of the settings). Leaves: intents
of closed hours that were not told yet, in order. Refuses: hours that are still open, or younger than they need to be complete.

An hour is told what the contract is worth at its end, minus all that was told before: what came late for an hour that was told,
what an outage let expire, and the fractions that the provider does not take come with the next hour. What is included in the
contract is netted away first. Told is what stands in the outbox, so that two hosts tell the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from billing_adapters.aws_marketplace_adapter import HourTotal, Licence
from billing_adapters.books import deliveries
from billing_adapters.outbox import Outbox
from billing_adapters.usage_totals import UsageTotal
from entitlements.contracts import licence_tail, net_of
from metering.numbers import exact_sum
from tallybook.books import reading
from tallybook.entitlements import Entitlements
from tallybook.errors import BadSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from billing_adapters.adapter import Adapter, Intent
    from tallybook.workspace import Workspace

HOUR = timedelta(hours=1)
SETTLE_MINUTES = 15


@dataclass(frozen=True, slots=True)
class HourSettings:
    """Who the contracts are at the provider, by licence, and how long after its end an hour is taken for complete.

    `until`: hours that end later are not told by this run.
    """

    licences: Mapping[str, Licence]
    settle: timedelta
    until: datetime | None = None

    def complete_until(self, now: datetime) -> datetime:
        """Return the latest end of what may be told now."""
        return now - self.settle if self.until is None else min(now - self.settle, self.until)

    @classmethod
    def taken_from(cls, options: dict[str, Any]) -> HourSettings:
        """Take `licences` and `settle_minutes` out of a section of the settings. Raises BadSettings."""
        named, minutes = options.pop("licences", {}), options.pop("settle_minutes", SETTLE_MINUTES)
        try:
            licences = {licence_tail(name): Licence(**who) for name, who in named.items()}
            return cls(licences, timedelta(minutes=minutes))
        except (TypeError, ValueError) as refused:
            raise BadSettings(f"licences of [delivery.aws_marketplace] cannot be used: {refused}") from refused


@dataclass(frozen=True, slots=True)
class _Untold:
    """The hours of one contract that are to be told, by their starts; `series` names it in the outbox."""

    contract_id: str
    tenant: str
    meter: str
    account_id: str
    dimension: str
    included: Decimal
    starts_at: datetime
    ends_at: datetime | None
    licence: Licence
    hours: tuple[datetime, ...]

    def end_of(self, start: datetime) -> datetime:
        """Return when an hour is over: at its end, or that of the contract where it comes first."""
        return start + HOUR if self.ends_at is None else min(start + HOUR, self.ends_at)

    @property
    def series(self) -> str:
        return f"{self.contract_id} {self.dimension}"


def hour_intents(workspace: Workspace, adapter: Adapter, settings: HourSettings, since: datetime) -> list[Intent]:
    """Return the intents of all hours that can be told now, of every contract whose licence the settings name."""
    outbox = Outbox(workspace.books, adapter.capabilities, workspace.clock)
    untold = _untold(workspace, adapter, settings, since)
    asked = [(one.tenant, one.meter, one.starts_at, one.end_of(start)) for one in untold for start in one.hours]
    if not asked:
        return []
    used = iter(Entitlements(workspace).used(asked))
    sent = outbox.sent([one.series for one in untold])
    made: list[Intent] = []
    for one in untold:
        for start in one.hours:
            ledger = net_of(one.included, next(used))
            total = UsageTotal(
                one.account_id, one.contract_id, one.dimension, start, start + HOUR, ledger, sent=sent[one.series]
            )
            for intent in adapter.prepare(HourTotal(total, one.licence)):
                sent[one.series] = exact_sum([sent[one.series], intent.quantity or Decimal(0)])
                made.append(intent)
    return made


def _untold(workspace: Workspace, adapter: Adapter, settings: HourSettings, since: datetime) -> list[_Untold]:
    catalog, now = workspace.catalog_or_empty(), workspace.now
    payers = {tenant: account.id for account in catalog.accounts for tenant in account.tenants}
    complete_until = settings.complete_until(now)
    found = []
    for one in catalog.contracts:
        licence = settings.licences.get(licence_tail(one.licence))
        if licence is None:
            continue
        term = one.contract
        told = last_told(workspace, adapter.capabilities.name, f"{one.id} {one.dimension}")
        first = max(term.starts_at, since) if told is None else told + HOUR
        one_of = _Untold(
            one.id,
            one.tenant,
            one.meter,
            payers.get(one.tenant, one.tenant),
            one.dimension,
            term.included,
            term.starts_at,
            term.ends_at,
            licence,
            (),
        )
        hours, start = [], first.replace(minute=0, second=0, microsecond=0)
        # A contract that ended closes its last hour: AWS takes final records for about an hour more.
        while one_of.end_of(start) <= complete_until and (term.ends_at is None or start < term.ends_at):
            # What cannot be told any more goes with the first hour that can.
            recover_by = adapter.capabilities.window.recover_by(start)
            if recover_by is None or recover_by > now:
                hours.append(start)
            start += HOUR
        found.append(replace(one_of, hours=tuple(hours)))
    return found


def last_told(workspace: Workspace, adapter: str, series: str) -> datetime | None:
    """Return the start of the last hour of a series that stands in the outbox; it is the rank of its delivery."""
    query = select(func.max(deliveries.c.rank)).where(deliveries.c.adapter == adapter, deliveries.c.series == series)
    with reading(workspace.books) as connection:
        text = connection.scalar(query)
    return datetime.fromisoformat(text).astimezone(UTC) if text else None
