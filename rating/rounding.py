"""The one rounding of money.

Enters: an exact amount and a number of minor digits. Leaves: the amount on paper, half away from zero.
Refuses: floats, and to round anything but a whole invoice line (never a unit price, a share, a tier, an event or a day).

The SQL of the same rule is `rating/sql/rounding.sql`; a property test holds the two together. Source: price models,
section 7. Half away from zero makes a credit note mirror its invoice: 0.005 -> 0.01 and -0.005 -> -0.01.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from fractions import Fraction

from metering.numbers import exact_sum

__all__ = ["EXACT", "exact_sum", "round_amount", "round_fraction"]

# Wide enough for decimal(38, 21) sums and their differences; a result that does not fit is an error, never rounded.
EXACT = Context(prec=76, rounding=ROUND_HALF_UP, traps=[InvalidOperation])


def round_amount(exact_amount: Decimal, minor_digits: int) -> Decimal:
    """Return an amount rounded half away from zero to `minor_digits` places; never -0.00."""
    if not isinstance(exact_amount, Decimal):
        raise TypeError(f"amounts are Decimals, not {type(exact_amount).__name__}")
    rounded = exact_amount.quantize(Decimal(1).scaleb(-minor_digits), context=EXACT)
    return rounded if rounded else abs(rounded)


def round_fraction(number: Fraction, places: int) -> Decimal:
    """Return an exact rational rounded half away from zero to a number of places; for shares of flat amounts only."""
    scaled = abs(number) * 10**places
    whole, rest = divmod(scaled.numerator, scaled.denominator)
    whole += 2 * rest >= scaled.denominator
    magnitude = Decimal(whole).scaleb(-places, context=EXACT)
    # A minus sign alone would round to 28 digits.
    return magnitude.copy_negate() if number < 0 and whole else magnitude
