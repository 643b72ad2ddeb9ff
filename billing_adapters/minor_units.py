"""An amount of money as a provider wants it: whole numbers of the unit that the provider, not ISO 4217, calls minor.

Enters: an amount rounded by ISO 4217, a currency, a provider. Leaves: the whole number to send, and what is carried where
the provider takes only multiples. Refuses: to lose what it carries, and floats.
Source: reference/providers.md, section 3.1. Published lists differ: an operator may override an entry per account.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from rating.allocation import carry_residue
from rating.iso4217 import minor_units
from rating.rounding import EXACT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal


@dataclass(frozen=True, slots=True)
class MinorUnit:
    """How a provider counts a currency: in 10^-digits of it, and only in multiples of `step` of those."""

    digits: int
    step: int = 1


# Only what differs from ISO 4217.
_STRIPE = {
    # Zero decimals although ISO has two; two decimals that must end in 00 although ISO has none.
    "MGA": MinorUnit(0),
    "ISK": MinorUnit(2, step=100),
    "UGX": MinorUnit(2, step=100),
    # Three decimals, the last of which must be 0.
    **dict.fromkeys(("BHD", "JOD", "KWD", "OMR", "TND"), MinorUnit(3, step=10)),
}
PROVIDERS: Mapping[str, Mapping[str, MinorUnit]] = MappingProxyType({"stripe": MappingProxyType(_STRIPE)})


def unit_of(currency: str, provider: str, overrides: Mapping[str, MinorUnit] | None = None) -> MinorUnit:
    """Return how a provider counts a currency; `overrides` of the operator's own account win. KeyError: no such currency."""
    own = (overrides or {}).get(currency) or PROVIDERS.get(provider, {}).get(currency)
    return own or MinorUnit(minor_units(currency))


def to_provider(cumulative: Decimal, sent: int, unit: MinorUnit) -> tuple[int, Decimal]:
    """Return (whole number to send now, amount carried). sent and now together are the provider's view of `cumulative`.

    `sent` is what went before, in the provider's units. Carried is at least zero and less than one step: 1.234 KWD is
    sent as 1230, and 0.004 is carried until it makes 0.010 with what follows.
    """
    smallest = EXACT.create_decimal(unit.step).scaleb(-unit.digits, context=EXACT)
    before = EXACT.create_decimal(sent).scaleb(-unit.digits, context=EXACT)
    now, carried = carry_residue(cumulative, before, smallest)
    return int(now.scaleb(unit.digits, context=EXACT)), carried
