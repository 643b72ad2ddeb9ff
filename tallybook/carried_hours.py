"""What AWS was told of every contract, and what is carried: ledger = accepted + waiting + parked + carried, exactly.

Enters: a workspace. Leaves: one `CarriedHours` per contract and dimension whose licence is known. Refuses: to send anything.

Carried is what no hour told yet: the open hour, fractions, late use. Below zero, more was told than was used: later hours are
lowered by it. Where the licence has no later hour, nothing lowers it by itself: ask for a billing adjustment.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import select

from billing_adapters.books import deliveries
from entitlements.contracts import net_of
from metering.numbers import exact_difference, exact_sum
from tallybook.books import reading
from tallybook.entitlements import Entitlements
from tallybook.marketplace import options_of
from tallybook.marketplace_settings import SECTION
from tallybook.metered_hours import HourSettings, metered_contracts

if TYPE_CHECKING:
    from decimal import Decimal

    from tallybook.workspace import Workspace


@dataclass(frozen=True, slots=True)
class CarriedHours:
    """Units of a dimension. `ledger` is what was used of it beyond the contract until now, or until its licence ended."""

    contract_id: str
    licence: str
    dimension: str
    ledger: Decimal
    accepted: Decimal
    waiting: Decimal
    parked: Decimal
    carried: Decimal
    is_over: bool

    @property
    def is_overmetered(self) -> bool:
        """Was more told than was used, and will no later hour lower it?"""
        return self.is_over and self.carried < 0


def carried_hours(workspace: Workspace) -> list[CarriedHours]:
    """Return what was told of every contract and what is carried, by contract and dimension."""
    market, rest = options_of(workspace)
    settings = replace(
        HourSettings.taken_from(rest), contract_only=market.contract_only, final_window=market.final_window
    )
    held, now = metered_contracts(workspace, settings), workspace.now
    ends = [min(now, one.ends_at or now) for one in held]
    asked = [
        (one.tenant, one.meter, one.starts_at, max(end, one.starts_at)) for one, end in zip(held, ends, strict=True)
    ]
    used = Entitlements(workspace).used(asked) if asked else []
    told = _told(workspace)
    found = []
    for one, quantity in zip(held, used, strict=True):
        ledger, by_state = net_of(one.included, quantity), told[one.series]
        accepted = exact_sum(by_state["delivered"])
        waiting = exact_sum([*by_state["pending"], *by_state["attempting"]])
        parked = exact_sum([*by_state["parked"], *by_state["waived"]])
        carried = exact_difference(ledger, accepted, waiting, parked)
        is_over = one.ends_at is not None and one.ends_at <= now
        found.append(
            CarriedHours(
                one.contract_id, one.licence.key, one.dimension, ledger, accepted, waiting, parked, carried, is_over
            )
        )
    return found


def _told(workspace: Workspace) -> defaultdict[str, defaultdict[str, list[Decimal]]]:
    """Return the quantities that stand in the outbox, by series and state."""
    told: defaultdict[str, defaultdict[str, list[Decimal]]] = defaultdict(lambda: defaultdict(list))
    query = select(deliveries.c.series, deliveries.c.state, deliveries.c.quantity).where(
        deliveries.c.adapter == SECTION, deliveries.c.quantity.is_not(None)
    )
    with reading(workspace.books) as connection:
        for series, state, quantity in connection.execute(query):
            told[series][state].append(quantity)
    return told
