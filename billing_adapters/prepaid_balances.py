"""Prepaid balances as legs on days: what was granted, burned, given back and expired, close by close.

Enters: closes, the balances as the catalog of each had them, and what documents burned. Leaves: `PrepaidLeg`s, for the
roll-forward. Refuses: to state a month again that a close came after. A balance that entered the catalog late is granted, and
one that a late document burns after its expiry is un-expired, on the day of the close that found it.

All is in the money of the balance, whether it was paid for or given; `prepaid_burns` has the part of a burn that had been paid
for.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

from metering.numbers import exact_difference

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date

    from rating.balances import Balance

_BEGINNING = datetime.min.replace(tzinfo=UTC)
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Burnt:
    """What a document burned of a balance, at the position and on the day of its close; what a void gave back is below zero."""

    balance_id: str
    position: int
    posted_on: date
    amount: Decimal
    kind: Literal["burned", "given_back"]
    is_own: bool


@dataclass(frozen=True, slots=True)
class PrepaidLeg:
    """An amount that moves a balance on a day, above zero if more is left. `is_own`: documents of the published run post it."""

    balance_id: str
    account_id: str
    currency: str
    posted_on: date
    kind: Literal["granted", "burned", "given_back", "expired"]
    amount: Decimal
    is_own: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """What a close saw: when it was, its place, and the balances of its catalog by id."""

    position: int
    as_of: datetime
    balances: Mapping[str, Balance]


def prepaid_legs(closes: Sequence[Seen], burnt: Iterable[Burnt]) -> list[PrepaidLeg]:
    """Return the legs of all balances, by balance and day. `closes` in the order of their positions. Pure."""
    burns: defaultdict[str, list[Burnt]] = defaultdict(list)
    for one in burnt:
        burns[one.balance_id].append(one)
    legs: list[PrepaidLeg] = []
    granted: dict[str, Decimal] = {}
    expired: dict[str, Decimal] = {}
    parties: dict[str, tuple[str, str]] = {}
    before = _BEGINNING
    for close in closes:
        for name, balance in close.balances.items():
            parties[name] = (balance.account, balance.currency)
            if balance.starts_at > close.as_of:
                continue
            found = _change(granted, name, balance.amount)
            legs += _leg(parties[name], name, "granted", found, _day(balance.starts_at, before, close.as_of))
            gone = [one.amount for one in burns[name] if one.position <= close.position]
            left = exact_difference(balance.amount, *gone) if balance.ends_at <= close.as_of else _ZERO
            # The end is open: what expires at midnight is of the day before.
            ends_at = min(balance.ends_at, close.as_of) - timedelta(microseconds=1)
            change = _change(expired, name, left).copy_negate()
            legs += _leg(parties[name], name, "expired", change, _day(ends_at, before, close.as_of))
        before = close.as_of
    for name, of_one in burns.items():
        for one in of_one:
            amount = one.amount.copy_negate()
            legs += _leg(parties[name], name, one.kind, amount, one.posted_on, is_own=one.is_own)
    return sorted(legs, key=lambda leg: (leg.balance_id, leg.posted_on, leg.kind))


def _change(held: dict[str, Decimal], name: str, now: Decimal) -> Decimal:
    """Return by how much a figure changed since the close before, and keep it."""
    change = exact_difference(now, held.get(name, _ZERO))
    held[name] = now
    return change


def _day(at: datetime, before: datetime, as_of: datetime) -> date:
    """Return the day of what happened at an instant: its own, or the close's where an earlier close came after it."""
    return (at if at >= before else as_of).date()


def _leg(
    party: tuple[str, str],
    name: str,
    kind: Literal["granted", "burned", "given_back", "expired"],
    amount: Decimal,
    day: date,
    *,
    is_own: bool = False,
) -> list[PrepaidLeg]:
    return [PrepaidLeg(name, *party, day, kind, amount, is_own)] if amount else []
