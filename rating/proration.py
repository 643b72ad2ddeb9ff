"""The share of a flat amount for a partial service period.

Enters: an amount for a full billing period, and the two lengths in microseconds. Leaves: the exact amount of the share.
Refuses: to count days. The basis is `instants`: the shares of the pieces of a period add up to exactly 1, whatever the
clock does. 60.00 from 11 June on: 60 x 20/30 = 40.00. Source: price models, section 5.3.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from rating.rounding import round_fraction

# Exact amounts have 21 places; a share such as 1/3 is not finite and is cut here, half away from zero, far below any cent.
EXACT_PLACES = 21


def share_of(amount: Decimal, service_us: int, period_us: int) -> Decimal:
    """Return amount x service/period, exact to 21 places. A service period longer than its billing period is an error."""
    if not 0 <= service_us <= period_us or not period_us:
        raise ValueError(f"a service period of {service_us} us does not lie in a billing period of {period_us} us")
    return round_fraction(Fraction(amount) * Fraction(service_us, period_us), EXACT_PLACES)
