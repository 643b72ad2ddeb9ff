"""Contracts that a provider sold: what is included per licence, dimension and term, and what was used beyond it.

Enters: contracts (imported from a provider, such as AWS Marketplace's GetEntitlements), and usage in the provider's own
dimensions. Leaves: per contract what was used, what is left of the included quantity, and the net that is to be metered to
the provider: max(0, used - included). Pure and exact. Refuses: two contracts for one instant of a licence and dimension.

"Contract with consumption" takes only usage above the entitlement, netted by the seller per licence, dimension and term
(providers, section 2.5). What no contract covers is returned beside the rest, never dropped: whether the provider takes it is
the provider's answer. A renewal is another licence, so nothing carries over. Words of the provider are kept for its fields.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from entitlements.errors import BadContract
from metering.numbers import exact_difference, exact_sum

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

ZERO = Decimal(0)
_VALUES = ("IntegerValue", "DoubleValue", "BooleanValue", "StringValue")


@dataclass(frozen=True, slots=True)
class Contract:
    """So many units of a dimension are included in a licence over a term [starts_at, ends_at); None: open.

    `licence` is the provider's name of it; Amazon resource names are compared by their `l-...` tail.
    """

    licence: str
    dimension: str
    starts_at: datetime
    ends_at: datetime | None
    included: Decimal

    def covers(self, at: datetime) -> bool:
        return self.starts_at <= at and (self.ends_at is None or at < self.ends_at)


@dataclass(frozen=True, slots=True)
class ContractUsage:
    """So much of a dimension was used under a licence at an instant (or in the hour that begins with it)."""

    licence: str
    dimension: str
    at: datetime
    quantity: Decimal


@dataclass(frozen=True, slots=True)
class NetUsage:
    """What became of one contract. used = included_used + net, and included = included_used + remaining."""

    contract: Contract
    used: Decimal
    net: Decimal
    remaining: Decimal

    @property
    def included_used(self) -> Decimal:
        return exact_difference(self.used, self.net)


@dataclass(frozen=True, slots=True)
class Netted:
    """Every contract, in the order of licence, dimension and term, and the usage that none of them covers."""

    contracts: tuple[NetUsage, ...]
    uncovered: tuple[ContractUsage, ...]


def licence_tail(licence: str) -> str:
    """Return `l-...` of an Amazon resource name, by which licences are compared: samples lack the leading `arn:`."""
    tail = licence.rsplit(":", 1)[-1]
    return tail if tail.startswith("l-") else licence


def net_of(included: Decimal, used: Decimal) -> Decimal:
    """Return what of a term's usage so far is beyond what is included: max(0, used - included)."""
    return max(ZERO, exact_difference(used, included))


def net_of_piece(included: Decimal, before: Decimal, quantity: Decimal) -> Decimal:
    """Return what one more piece (an hour) adds to the net, after what was used before it in the term.

    The pieces of a term sum to the net of the term, however it was cut. Negative only for usage that is taken back.
    """
    return exact_difference(net_of(included, exact_sum([before, quantity])), net_of(included, before))


def net_usage(contracts: Sequence[Contract], usage: Iterable[ContractUsage]) -> Netted:
    """Net usage against contracts, per licence, dimension and term. Raises BadContract when two cover one instant."""
    by_key = _by_key(contracts)
    used: dict[Contract, list[Decimal]] = {contract: [] for contract in contracts}
    uncovered = []
    for one in usage:
        of_key = by_key.get((licence_tail(one.licence), one.dimension), [])
        covering = next((contract for contract in of_key if contract.covers(one.at)), None)
        if covering is None:
            uncovered.append(one)
        else:
            used[covering].append(one.quantity)
    netted = []
    for key in sorted(by_key):
        for contract in by_key[key]:
            total = exact_sum(used[contract])
            net = net_of(contract.included, total)
            left = exact_difference(contract.included, exact_difference(total, net))
            netted.append(NetUsage(contract, total, net, left))
    return Netted(tuple(netted), tuple(uncovered))


def aws_contracts(
    entitlements: Iterable[Mapping[str, Any]], *, starts_at: Mapping[str, datetime] | datetime
) -> list[Contract]:
    """Return the contracts of GetEntitlements, all pages of `Entitlements` together; values that count nothing are left out.

    AWS does not say there when a term starts: `starts_at` is of the agreement, one instant or one per licence. A Boolean or
    String value switches or configures, and includes no units. A Double is read as AWS wrote it, in its shortest digits.
    Raises BadContract for an entitlement without licence or dimension, or with no value that can be read.
    """
    contracts = []
    for entry in entitlements:
        licence, dimension = entry.get("LicenseArn"), entry.get("Dimension")
        if not licence or not dimension:
            raise BadContract(f"an entitlement of AWS lacks LicenseArn or Dimension: {sorted(entry)}")
        included = _units(entry.get("Value") or {}, licence, dimension)
        if included is None:
            continue
        if isinstance(starts_at, dict):
            start = {licence_tail(name): at for name, at in starts_at.items()}.get(licence_tail(licence))
        else:
            start = starts_at
        if start is None:
            raise BadContract(
                f"the start of licence {licence} is not known; take it from its agreement", licence=licence
            )
        contracts.append(Contract(licence, dimension, start, entry.get("ExpirationDate"), included))
    return contracts


def _units(value: Mapping[str, Any], licence: str, dimension: str) -> Decimal | None:
    """Return the units of a value, or None: it counts nothing."""
    said = [name for name in _VALUES if value.get(name) is not None]
    if len(said) != 1:
        raise BadContract(
            f"{dimension} of licence {licence} has {len(said)} values; AWS sends exactly one of {', '.join(_VALUES)}",
            licence=licence, dimension=dimension,
        )  # fmt: skip
    if said[0] in {"BooleanValue", "StringValue"}:
        return None
    # botocore gives a float for a Double; its shortest digits are what was on the wire, or mean the same.
    units = Decimal(str(value[said[0]]))
    if not units.is_finite() or units < 0:
        raise BadContract(f"{dimension} of licence {licence} includes {units} units, which cannot be counted down")
    return units


def _by_key(contracts: Sequence[Contract]) -> dict[tuple[str, str], list[Contract]]:
    """Return the contracts of each licence and dimension in the order of time."""
    by_key: dict[tuple[str, str], list[Contract]] = defaultdict(list)
    for contract in sorted(contracts, key=lambda one: one.starts_at):
        by_key[licence_tail(contract.licence), contract.dimension].append(contract)
    for (licence, dimension), terms in by_key.items():
        for first, second in pairwise(terms):
            if first.ends_at is None or second.starts_at < first.ends_at:
                raise BadContract(
                    f"two contracts of licence {licence} include {dimension} at {second.starts_at}; end one of them",
                    licence=licence, dimension=dimension,
                )  # fmt: skip
    return by_key
