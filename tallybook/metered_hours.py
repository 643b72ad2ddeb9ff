"""Hours for a marketplace: what was used beyond each contract of the catalog, hour by hour, as the lake knows it now.

Enters: a workspace, the contracts of its catalog, and who they are at the provider (`licences` of the settings). Leaves: intents
of closed hours that were not told yet, in order. Refuses: hours that are still open, or younger than they need to be complete.

An hour is told what the contract is worth at its end, minus all that was told before: what came late for an hour that was told,
what an outage let expire, and the fractions that the provider does not take come with the next hour. What is included in the
contract is netted away first. Told is what stands in the outbox, so that two hosts tell the same.

Who a contract is at the provider is said by the settings, else by the buyer who registered. When its licence ends, the open hour
is told at once, while AWS still takes it; what could not be told in time is told all the same, so that it is parked, and seen.
The same use under two licences at once would be billed twice: the later of the two is parked with that reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from billing_adapters.aws_marketplace_adapter import HourTotal, Licence
from billing_adapters.aws_marketplace_adapter.buyers import list_buyers
from billing_adapters.aws_marketplace_adapter.licence_states import FINAL_WINDOW, licence_states, list_notices
from billing_adapters.books import deliveries
from billing_adapters.outbox import Outbox
from billing_adapters.usage_totals import UsageTotal
from entitlements.contracts import licence_tail, net_of
from metering.numbers import exact_sum
from tallybook.allocated_hours import Allocations
from tallybook.books import reading
from tallybook.entitlements import Entitlements
from tallybook.errors import BadSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from billing_adapters.adapter import Adapter, Intent, Window
    from billing_adapters.aws_marketplace_adapter.licence_states import LicenceState
    from tallybook.allocated_hours import Hour
    from tallybook.workspace import Workspace

HOUR = timedelta(hours=1)
SETTLE_MINUTES, SETTLE_MINUTES_MAX = 15, 40_320


@dataclass(frozen=True, slots=True)
class HourSettings:
    """Who the contracts are at the provider, by licence, and how long after its end an hour is taken for complete.

    `allocations`: which attributes of the usage the buyer is to see as tags.
    `until`: hours that end later are not told by this run, but for the last one of a contract, which cannot wait.
    """

    licences: Mapping[str, Licence]
    settle: timedelta
    final_window: timedelta = FINAL_WINDOW
    contract_only: frozenset[str] = frozenset()
    allocations: Allocations = field(default_factory=Allocations)
    until: datetime | None = None

    def complete_until(self, now: datetime, settle: timedelta | None = None, *, is_over: bool = False) -> datetime:
        """Return the latest end of what may be told now; `is_over`: of a contract that ended, whose time is short."""
        complete_until = now - (self.settle if settle is None else settle)
        return complete_until if self.until is None or is_over else min(complete_until, self.until)

    @classmethod
    def taken_from(cls, options: dict[str, Any]) -> HourSettings:
        """Take `licences` and `settle_minutes` out of a section of the settings. Raises BadSettings."""
        settle = settle_of(options)
        named, _ = options.pop("licences", {}), options.pop("settle_minutes", None)
        try:
            return cls({licence_tail(name): Licence(**who) for name, who in named.items()}, settle)
        except (TypeError, ValueError) as refused:
            raise BadSettings(f"licences of [delivery.aws_marketplace] cannot be used: {refused}") from refused


def settle_of(section: Mapping[str, Any]) -> timedelta:
    """Return how long after its end an hour or a window is taken for complete, as a section says. Raises BadSettings."""
    minutes = section.get("settle_minutes", SETTLE_MINUTES)
    if type(minutes) is not int or not 0 <= minutes <= SETTLE_MINUTES_MAX:
        raise BadSettings(f"settle_minutes is {minutes!r}; write whole minutes, from 0 to {SETTLE_MINUTES_MAX}")
    return timedelta(minutes=minutes)


@dataclass(frozen=True, slots=True)
class Untold:
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
    final_until: datetime | None
    hours: tuple[datetime, ...] = ()
    refusal: str | None = None

    def end_of(self, start: datetime) -> datetime:
        """Return when an hour is over: at its end, or that of the contract where it comes first."""
        return start + HOUR if self.ends_at is None else min(start + HOUR, self.ends_at)

    def split(self, start: datetime) -> Hour:
        """Return what to ask of an hour to split it: its use, from the contract's start on where that is later."""
        return self.tenant, self.meter, self.dimension, max(start, self.starts_at), self.end_of(start)

    def counts_again(self, other: Untold) -> bool:
        """Would the same use be told under both? They have other identities, and a time in common."""
        same = (self.tenant, self.meter, self.dimension) == (other.tenant, other.meter, other.dimension)
        starts, ends = max(self.starts_at, other.starts_at), [at for at in (self.ends_at, other.ends_at) if at]
        is_shared = not ends or starts < min(ends)
        return same and is_shared and self.licence.key != other.licence.key and other.refusal is None

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
    shares = settings.allocations.of(workspace, [one.split(start) for one in untold for start in one.hours])
    sent = outbox.sent([one.series for one in untold])
    made: list[Intent] = []
    for one in untold:
        for start in one.hours:
            ledger = net_of(one.included, next(used))
            total = UsageTotal(
                one.account_id, one.contract_id, one.dimension, start, start + HOUR, ledger, sent=sent[one.series]
            )
            split = shares.get(one.split(start), ())
            hour = HourTotal(total, one.licence, split, final_until=one.final_until, refusal=one.refusal)
            for intent in adapter.prepare(hour):
                sent[one.series] = exact_sum([sent[one.series], intent.quantity or Decimal(0)])
                made.append(intent)
    return made


def metered_contracts(workspace: Workspace, settings: HourSettings) -> list[Untold]:
    """Return every contract whose licence is known, without hours; of two that would bill the same use, the later is refused."""
    catalog = workspace.catalog_or_empty()
    payers = {tenant: account.id for account in catalog.accounts for tenant in account.tenants}
    licences, states = _licences(workspace, settings)
    found = []
    for one in catalog.contracts:
        name, term = licence_tail(one.licence), one.contract
        if name not in licences or licences[name].product in settings.contract_only:
            continue
        state = states.get(name)
        ends = [at for at in (term.ends_at, state.ends_at if state else None) if at is not None]
        found.append(
            Untold(
                one.id,
                one.tenant,
                one.meter,
                payers.get(one.tenant, one.tenant),
                one.dimension,
                term.included,
                # AWS takes nothing of before its licence, whatever the contract says.
                max(term.starts_at, licences[name].starts_at or term.starts_at),
                min(ends, default=None),
                licences[name],
                state.final_until if state else None,
            )
        )
    return _once(found)


def _untold(workspace: Workspace, adapter: Adapter, settings: HourSettings, since: datetime) -> list[Untold]:
    """Return every contract with the hours that can be told now."""
    found = []
    for one in metered_contracts(workspace, settings):
        told = last_told(workspace, adapter.capabilities.name, one.series)
        first = max(one.starts_at, since) if told is None else told + HOUR
        hours = _hours(one, first, workspace.now, settings, adapter.capabilities.window)
        found.append(replace(one, hours=hours))
    return found


def _licences(workspace: Workspace, settings: HourSettings) -> tuple[dict[str, Licence], dict[str, LicenceState]]:
    """Return who the licences are, of the settings or else of buyers, and what the provider told of them."""
    with reading(workspace.books) as connection:
        buyers, notices = list_buyers(connection), list_notices(connection)
    states = licence_states(notices, now=workspace.now, final_window=settings.final_window)
    return {**{one.licence: one.as_licence for one in buyers}, **settings.licences}, states


def _hours(one: Untold, first: datetime, now: datetime, settings: HourSettings, window: Window) -> tuple[datetime, ...]:
    """Return the starts of the hours from `first` on that are complete and can be told."""
    hours, start = [], first.replace(minute=0, second=0, microsecond=0)
    last: datetime | None = None
    while one.ends_at is None or start < one.ends_at:
        is_last = one.ends_at is not None and one.end_of(start) == one.ends_at
        settle = settings.settle
        if is_last and one.final_until is not None:
            # The provider takes final records for about an hour: a quarter of it is waited for late ones at most.
            settle = min(settle, settings.final_window / 4)
        # Hours without use are told by nobody, so none of a contract that is over may keep its last one from being told.
        is_over = one.ends_at is not None and one.ends_at <= now
        if one.end_of(start) > settings.complete_until(now, settle, is_over=is_over):
            break
        last = start if is_last else None
        # What cannot be told any more goes with the first hour that can.
        ends = [at for at in (window.recover_by(start), one.final_until) if at is not None]
        if not ends or min(ends) > now:
            hours.append(start)
        start += HOUR
    # No later hour will make up for what the last one misses: it is told late, and parked as lost.
    return tuple(hours) if hours or last is None else (last,)


def _once(found: list[Untold]) -> list[Untold]:
    """Refuse the later of two contracts under which the same use would be told: other licences, the same dimension and time."""
    checked: list[Untold] = []
    for one in sorted(found, key=lambda one: (one.starts_at, one.contract_id)):
        twice = next((other for other in checked if one.counts_again(other)), None)
        if twice is not None:
            why = (
                f"what {one.tenant} uses of {one.meter} is told under {twice.licence.key} already (contract "
                f"{twice.contract_id}): AWS would bill it twice; end one of the two contracts"
            )
            checked.append(replace(one, refusal=why))
        else:
            checked.append(one)
    return checked


def last_told(workspace: Workspace, adapter: str, series: str) -> datetime | None:
    """Return the start of the last hour of a series that stands in the outbox; it is the rank of its delivery."""
    query = select(func.max(deliveries.c.rank)).where(deliveries.c.adapter == adapter, deliveries.c.series == series)
    with reading(workspace.books) as connection:
        text = connection.scalar(query)
    return datetime.fromisoformat(text).astimezone(UTC) if text else None
