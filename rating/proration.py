"""The share of an amount for a part of a billing period, by one of five bases that a plan declares.

Enters: a part of a billing period, the whole of it, a time zone and a basis. Leaves: the share, an exact rational.
Refuses: a part that does not lie in its period. Source: price models, sections 5.3 and 10.

`instants` is the strict basis: the shares of the pieces of a period add up to exactly 1, whatever the clock does.
60.00 from 11 June on: 60 x 20/30 = 40.00. The others count local dates: `local_days` half-open, `days_inclusive` with the
first and the last day, `thirty_day_month` as if every month had thirty, so that from the 15th on 16/30 are left, and
`nominal_year` as if every year had 365, so that a part of a leap year may be the whole of it.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from metering.periods import zone
from rating.rounding import round_fraction

if TYPE_CHECKING:
    from metering.periods import Period

Basis = Literal["instants", "local_days", "days_inclusive", "thirty_day_month", "nominal_year"]
DAY_BASES = ("local_days", "days_inclusive", "thirty_day_month", "nominal_year")

# Exact amounts have 21 places; a share such as 1/3 is not finite and is cut here, half away from zero, far below any cent.
EXACT_PLACES = 21
THIRTY_DAYS = {"month": 30, "quarter": 90, "year": 360}
NOMINAL_YEAR = 365
_MICROSECOND = timedelta(microseconds=1)


def basis_misfit(basis: str, every: str) -> str:
    """Return why periods of a length have no shares by a basis; '' where they have."""
    if basis == "thirty_day_month" and every not in THIRTY_DAYS:
        return f"a {every} has no months of thirty days; write instants, local_days or days_inclusive"
    if basis == "nominal_year" and every != "year":
        return f"a {every} is no year of 365 days; write instants, local_days or days_inclusive"
    return ""


def share_of(amount: Decimal, service_us: int, period_us: int) -> Decimal:
    """Return amount x service/period, exact to 21 places. A service period longer than its billing period is an error."""
    if not 0 <= service_us <= period_us or not period_us:
        raise ValueError(f"a service period of {service_us} us does not lie in a billing period of {period_us} us")
    return amount_of_share(amount, Fraction(service_us, period_us))


def amount_of_share(amount: Decimal, share: Fraction) -> Decimal:
    """Return amount x share, exact to 21 places."""
    return round_fraction(Fraction(amount) * share, EXACT_PLACES)


def share_between(
    start: datetime, end: datetime, period: Period, basis: Basis, timezone: str, every: str = "month"
) -> Fraction:
    """Return the share of a billing period that [start, end) is. Raises ValueError where it does not lie in the period."""
    if not period.start <= start <= end <= period.end:
        raise ValueError(f"a service period from {start} to {end} does not lie in the billing period {period}")
    if start == end:
        return Fraction(0)
    if basis == "instants":
        return Fraction((end - start) // _MICROSECOND, (period.end - period.start) // _MICROSECOND)
    if basis == "local_days":
        first = _day(period.start, timezone)
        return Fraction((_day(end, timezone) - _day(start, timezone)).days, (_day(period.end, timezone) - first).days)
    if basis == "nominal_year":
        days = (_day(end, timezone) - _day(start, timezone)).days
        return min(Fraction(days, NOMINAL_YEAR), Fraction(1))
    if basis == "days_inclusive":
        return Fraction(_days_touched(start, end, timezone), _days_touched(period.start, period.end, timezone))
    return _left_of_thirty(start, period, timezone, every) - _left_of_thirty(end, period, timezone, every)


def _day(instant: datetime, timezone: str) -> date:
    return instant.astimezone(zone(timezone)).date()


def _days_touched(start: datetime, end: datetime, timezone: str) -> int:
    # The end is open: midnight does not touch the day that it begins.
    return (_day(end.astimezone(UTC) - _MICROSECOND, timezone) - _day(start, timezone)).days + 1


def _left_of_thirty(instant: datetime, period: Period, timezone: str, every: str) -> Fraction:
    if instant == period.end:
        return Fraction(0)
    days = THIRTY_DAYS[every]
    passed = (_day(instant, timezone) - _day(period.start, timezone)).days
    return Fraction(days - min(days, passed), days)
