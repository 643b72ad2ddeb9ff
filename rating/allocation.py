"""An amount shared out, so that the shares add up to it to the last minor unit.

Enters: an amount, weights, the decimals of the currency. Leaves: one share per weight, in the same order.
Refuses: weights that are not above zero, and shares that are computed one by one and rounded: what that loses or makes
is exactly what finance has to explain. Source: price models, section 7 (largest remainder), and its coarser destinations.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

from rating.rounding import EXACT, exact_sum, round_amount, round_fraction

if TYPE_CHECKING:
    from collections.abc import Sequence


def allocate(
    amount: Decimal, weights: Sequence[Decimal], minor_digits: int, *, ties: Sequence[str] | None = None
) -> list[Decimal]:
    """Return the shares of an amount by weight: floors in minor units, then one unit each by largest remainder.

    Equal remainders are served in the order given, or in the order of the texts `ties`, one per weight. The amount is
    rounded to the minor unit first; a negative one is shared out by its absolute value. Raises ValueError for no
    weight, or one that is not above zero. 10.00 over 1, 1, 1: 3.34, 3.33, 3.33; 0.01 over 90 and 1: all to the first.
    """
    dealt = _dealt(Fraction(round_amount(amount, minor_digits)) * 10**minor_digits, weights, ties)
    sign = -1 if amount < 0 else 1
    return [Decimal(sign * int(units) if units else 0).scaleb(-minor_digits, context=EXACT) for units in dealt]


def allocate_exactly(amount: Decimal, weights: Sequence[Decimal], minor_digits: int) -> list[Decimal]:
    """Return the shares of an amount that may have parts of a minor unit: they add up to it, to its last digit.

    Whole minor units as `allocate` gives them; what is left below one goes to the next remainder, so that one share at most
    is not whole. 10.015 over 1, 1, 1: 3.34, 3.34, 3.335. Raises ValueError as `allocate` does.
    """
    scale = Fraction(10) ** minor_digits
    sign, places = -1 if amount < 0 else 1, max(minor_digits, -int(amount.as_tuple().exponent))
    return [round_fraction(sign * units / scale, places) for units in _dealt(Fraction(amount) * scale, weights, None)]


def _dealt(units: Fraction, weights: Sequence[Decimal], ties: Sequence[str] | None) -> list[Fraction]:
    """Deal the size of a number of units: floors, then one each by largest remainder, then what is left below one."""
    if not weights or any(weight <= 0 for weight in weights):
        raise ValueError(f"an amount is shared out over weights above zero, not over {[str(one) for one in weights]}")
    whole = sum((Fraction(weight) for weight in weights), Fraction(0))
    shares = [abs(units) * Fraction(weight) / whole for weight in weights]
    dealt = [Fraction(share.numerator // share.denominator) for share in shares]
    places = sorted(
        range(len(shares)),
        key=lambda at: (dealt[at] - shares[at], at if ties is None else 0, ties[at] if ties else ""),
    )
    left = abs(units) - sum(dealt)
    for at in places:
        part = min(left, Fraction(1))
        dealt[at], left = dealt[at] + part, left - part
    return dealt


def allocate_capped(
    amount: Decimal, bases: Sequence[Decimal], minor_digits: int, *, ties: Sequence[str] | None = None
) -> list[Decimal]:
    """Return the shares of a fixed discount over the amounts it lowers: in their ratio, together never above their sum.

    `bases` are at least zero and have the decimals of the currency; what is zero gets nothing. 20 off lines of 10 and 5
    takes 10 and 5.
    """
    lowered = [at for at, base in enumerate(bases) if base > 0]
    shares = [Decimal(0).scaleb(-minor_digits, context=EXACT)] * len(bases)
    if not lowered:
        return shares
    capped = min(amount, exact_sum([bases[at] for at in lowered]))
    tied = None if ties is None else [ties[at] for at in lowered]
    for at, share in zip(
        lowered, allocate(capped, [bases[at] for at in lowered], minor_digits, ties=tied), strict=True
    ):
        shares[at] = share
    return shares


def carry_residue(cumulative: Decimal, sent: Decimal, unit: Decimal) -> tuple[Decimal, Decimal]:
    """Return (what to send now, what is carried) where a destination takes only whole multiples of `unit`.

    `cumulative` is all so far and `sent` what went before, in the same measure; sent + now + carried = cumulative, always,
    and what is carried is at least zero and below one unit. Thirty hours of 0.007 in units of 0.01 send 0.21 and carry 0;
    cutting each hour would send nothing for ever. A cumulative that fell below what was sent gives a negative number.
    """
    if unit <= 0:
        raise ValueError(f"a unit is above zero, not {unit}")
    multiples = Fraction(cumulative) / Fraction(unit)
    whole = EXACT.multiply(unit, Decimal(multiples.numerator // multiples.denominator))
    return EXACT.subtract(whole, sent), EXACT.subtract(cumulative, whole)
