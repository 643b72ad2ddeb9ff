"""Decimals as text and in sums, the same everywhere: no exponent, no minus zero, no digit lost.

Enters: finite Decimals. Leaves: plain digits, exact sums. Refuses: to round; every digit that counts stays.
"""

from __future__ import annotations

from decimal import Context, Decimal, Inexact, InvalidOperation, localcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

# Wide enough for decimal(38, 21) sums and their differences; a result that does not fit is an error, never rounded.
_EXACT = Context(prec=76, traps=[InvalidOperation, Inexact])


def exact_arithmetic() -> AbstractContextManager[Context]:
    """Return the context in which sums, differences and products of decimals are exact, or raise decimal.Inexact."""
    return localcontext(_EXACT)


def exact_sum(numbers: Iterable[Decimal]) -> Decimal:
    """Return the sum of decimals without rounding; raises decimal.Inexact rather than lose a digit."""
    with exact_arithmetic():
        return sum(numbers, Decimal(0))


def exact_difference(whole: Decimal, *parts: Decimal) -> Decimal:
    """Return what is left of a decimal when others are taken off, without rounding; raises decimal.Inexact as `exact_sum`.

    Not a sum with `-part` in it: that minus sign rounds to 28 digits before anything is added up.
    """
    with exact_arithmetic():
        return whole - sum(parts, Decimal(0))


def plain(number: Decimal) -> str:
    """Return a decimal without exponent and with the places it was written with; `-0.00` as `0.00`."""
    return f"{number if number else abs(number):f}"


def trimmed(number: Decimal) -> str:
    """Return a decimal without exponent and without zeros that say nothing: 1.500 -> 1.5, 100 -> 100, 0E-9 -> 0."""
    text = plain(number)
    return text.rstrip("0").rstrip(".") if "." in text else text
