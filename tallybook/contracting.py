"""Contracts of a provider over a workspace: what was used of each, what is left, and the net that is metered to the provider.

Enters: the contracts of the catalog, usage of the lake. Leaves: one `ContractState` per contract, and one for usage between the
terms of a licence, which no contract covers. Refuses: to send anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from entitlements.contracts import Contract, ContractUsage, aws_contracts, licence_tail, net_usage
from metering.clock import iso_utc
from metering.numbers import trimmed
from tallybook.entitlements import Entitlements

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from rating.grants import ProviderContract
    from tallybook.workspace import Workspace


@dataclass(frozen=True, slots=True)
class ContractState:
    """One contract until now, in units of its meter: used = included used + net. `contract_id` None: usage outside all terms."""

    contract_id: str | None
    tenant: str
    contract: Contract
    used: Decimal
    net: Decimal
    remaining: Decimal

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        contract = self.contract
        return {
            "contract": self.contract_id,
            "tenant": self.tenant,
            "licence": contract.licence,
            "dimension": contract.dimension,
            "from": iso_utc(contract.starts_at),
            "to": None if contract.ends_at is None else iso_utc(contract.ends_at),
            "included": trimmed(contract.included),
            "used": trimmed(self.used),
            "net": trimmed(self.net),
            "remaining": trimmed(self.remaining),
        }


def contract_states(workspace: Workspace) -> list[ContractState]:
    """Return every contract and every stretch that none covers, by licence, dimension and time; see `Workspace.contracts`."""
    held: dict[tuple[str, str], list[ProviderContract]] = {}
    for one in workspace.catalog_or_empty().contracts:
        held.setdefault((licence_tail(one.licence), one.dimension), []).append(one)
    now = workspace.now
    asked = []
    for key in sorted(held):
        # One licence and dimension has one tenant and meter at a time: that of the contract before, between two.
        terms = sorted(held[key], key=lambda one: one.contract.starts_at)
        for start, end in pairwise(_bounds(terms, now)):
            last = [one for one in terms if one.contract.starts_at <= start][-1]
            asked.append((last, start, end))
    if not asked:
        return []
    used = Entitlements(workspace).used([(one.tenant, one.meter, start, end) for one, start, end in asked])
    usage = [
        ContractUsage(one.licence, one.dimension, start, quantity)
        for (one, start, _), quantity in zip(asked, used, strict=True)
    ]
    by_contract = {one.contract: one for terms in held.values() for one in terms}
    netted = net_usage(list(by_contract), usage)
    states = [
        ContractState(
            by_contract[one.contract].id,
            by_contract[one.contract].tenant,
            one.contract,
            one.used,
            one.net,
            one.remaining,
        )
        for one in netted.contracts
    ]
    ends = {(one.licence, one.dimension, start): (one.tenant, end) for one, start, end in asked}
    for loose in netted.uncovered:
        tenant, end = ends[loose.licence, loose.dimension, loose.at]
        outside = Contract(loose.licence, loose.dimension, loose.at, end, Decimal(0))
        if loose.quantity:
            states.append(ContractState(None, tenant, outside, loose.quantity, loose.quantity, Decimal(0)))
    return sorted(states, key=lambda one: (one.contract.licence, one.contract.dimension, one.contract.starts_at))


def _bounds(terms: list[ProviderContract], now: datetime) -> list[datetime]:
    """Return every instant at which a term begins or ends, up to now."""
    found = {at for one in terms for at in (one.contract.starts_at, one.contract.ends_at or now)}
    return sorted(at for at in {*found, now} if at <= now)


def entries_of_aws(
    entitlements: Iterable[Mapping[str, Any]], *, tenant: str, starts_at: datetime, meters: Mapping[str, str]
) -> list[dict[str, str]]:
    """Return the entries of GetEntitlements as the catalog writes contracts, to be reviewed and put into a file.

    `meters` says which meter counts for a dimension; the others have a meter of the dimension's own name. Raises BadContract.
    """
    return [
        {
            "id": f"{licence_tail(one.licence)}-{one.dimension}-{one.starts_at:%Y%m%d}",
            "tenant": tenant,
            "licence": licence_tail(one.licence),
            "dimension": one.dimension,
            "meter": meters.get(one.dimension, one.dimension),
            "included": trimmed(one.included),
            "from": iso_utc(one.starts_at),
            **({} if one.ends_at is None else {"to": iso_utc(one.ends_at)}),
        }
        for one in aws_contracts(entitlements, starts_at=starts_at)
    ]
