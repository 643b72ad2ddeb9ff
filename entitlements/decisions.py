"""The answer to "may this tenant use this feature now?", the same from every way of asking.

Enters: what is known of a tenant's entitlement (`Standing`), and what this process used since then, in billionths of a unit.
Leaves: a frozen `Decision` with a reason; its quantities are exact Decimals, made only when they are read.
Refuses: quantities of more than nine decimal places. Source: DESIGN section 8; price models, section 8 (7).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Literal, get_args

from metering.clock import iso_utc
from metering.numbers import trimmed

if TYPE_CHECKING:
    from datetime import datetime

Reason = Literal[
    "granted",  # a boolean entitlement that is on, a static one that has a value, or a metered one without a quota
    "within_quota",  # metered: what was asked for fits into what is left
    "soft_limit_exceeded",  # metered: it does not fit, and the limit only tells
    "quota_exhausted",  # metered: it does not fit, and the limit stops
    "lease_granted",  # a hard quota: this process holds a lease that covers it
    "lease_refused",  # a hard quota: no lease could be had for it
    "rate_limited",  # too much within a second or a minute; `resets_at` says when to come back
    "switched_off",  # a boolean entitlement that is off
    "not_effective",  # there is one, but not at this time: the subscription begins later, or is over
    "no_entitlement",  # nothing that the tenant subscribed to entitles to it
    "books_away_open",  # nothing fresh enough is known, and the entitlement says to let it through
    "books_away_closed",  # nothing fresh enough is known, and the entitlement says to stop it
]
REASONS: tuple[Reason, ...] = get_args(Reason)

Value = bool | int | Decimal | str

# Usage is stored with nine decimal places: whole billionths are exact, and adding them takes no Decimal.
BILLIONTHS = 10**9
_PLACES = Decimal(BILLIONTHS)


def to_billionths(quantity: int | Decimal) -> int:
    """Return a quantity in billionths of its unit, exactly. Raises ValueError for more than nine decimal places."""
    if isinstance(quantity, int):
        return quantity * BILLIONTHS
    if not isinstance(quantity, Decimal):
        raise TypeError(f"a quantity is exact: an int or a Decimal, not {type(quantity).__name__}")
    numerator, denominator = quantity.as_integer_ratio()
    whole, rest = divmod(numerator * BILLIONTHS, denominator)
    if rest:
        raise ValueError(f"quantity {quantity} has more than nine decimal places; usage is counted in billionths")
    return whole


def from_billionths(billionths: int) -> Decimal:
    """Return the quantity of so many billionths of a unit, without zeros that say nothing; never rounded."""
    sign, digits = ("-", -billionths) if billionths < 0 else ("", billionths)
    return Decimal(trimmed(Decimal(f"{sign}{digits // BILLIONTHS}.{digits % BILLIONTHS:09d}")))


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of one tenant's entitlement to one feature. The numbers are billionths of the meter's unit.

    `limit` is what there was since the last reset, used or not; None: unlimited. `remaining` is what is left of it, below
    zero by what no grant covered. The two differ by more than `used` where a reset kept an overage and let grants pay it.
    """

    tenant: str
    feature: str
    limit: int | None = None
    used: int = 0
    remaining: int = 0
    resets_at: datetime | None = None
    value: Value | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a tenant may use a feature, and why. True and false as `allowed` is.

    `since` is what this process used after the standing was read, in billionths: `used` and `remaining` count it. Make one
    with `Decision.of`; the constructor is for who already has a `Standing`.
    """

    allowed: bool
    reason: Reason
    standing: Standing
    since: int = 0

    @classmethod
    def of(
        cls,
        allowed: bool,
        reason: Reason,
        *,
        tenant: str,
        feature: str,
        limit: Decimal | int | None = None,
        used: Decimal | int = 0,
        remaining: Decimal | int | None = None,
        resets_at: datetime | None = None,
        value: Value | None = None,
        source: str | None = None,
    ) -> Decision:
        """Return the decision with these quantities, in units of the meter. `remaining` is limit - used unless said."""
        top, counted = None if limit is None else to_billionths(limit), to_billionths(used)
        left = (top or 0) - counted if remaining is None else to_billionths(remaining)
        return cls(allowed, reason, Standing(tenant, feature, top, counted, left, resets_at, value, source))

    def __bool__(self) -> bool:
        return self.allowed

    @property
    def tenant(self) -> str:
        return self.standing.tenant

    @property
    def feature(self) -> str:
        return self.standing.feature

    @property
    def limit(self) -> Decimal | None:
        """Return what there was since the last reset, used or not, in units of the meter. None: no limit."""
        return None if self.standing.limit is None else from_billionths(self.standing.limit)

    @property
    def used(self) -> Decimal:
        """Return what was used since the last reset, in units of the meter, with this process's own use."""
        return from_billionths(self.standing.used + self.since)

    @property
    def remaining(self) -> Decimal | None:
        """Return what is left, never below zero. None: no limit."""
        standing = self.standing
        return None if standing.limit is None else from_billionths(max(0, standing.remaining - self.since))

    @property
    def overage(self) -> Decimal:
        """Return what was used that no grant covered."""
        standing = self.standing
        return from_billionths(0 if standing.limit is None else max(0, self.since - standing.remaining))

    @property
    def resets_at(self) -> datetime | None:
        """Return the instant, UTC, at which the quota starts anew. None: never."""
        return self.standing.resets_at

    @property
    def value(self) -> Value | None:
        """Return the value of a static entitlement."""
        return self.standing.value

    @property
    def source(self) -> str | None:
        """Return what entitles: the plan version, an override of the subscription, a grant."""
        return self.standing.source

    def as_dict(self) -> dict[str, object]:
        """Return it for JSON: quantities as text, times in ISO 8601, UTC."""
        value = self.value
        return {
            "tenant": self.tenant,
            "feature": self.feature,
            "allowed": self.allowed,
            "reason": self.reason,
            "limit": None if self.limit is None else trimmed(self.limit),
            "used": trimmed(self.used),
            "remaining": None if self.remaining is None else trimmed(self.remaining),
            "overage": trimmed(self.overage),
            "resets_at": None if self.resets_at is None else iso_utc(self.resets_at),
            "value": trimmed(value) if isinstance(value, Decimal) else value,
            "source": self.source,
        }
