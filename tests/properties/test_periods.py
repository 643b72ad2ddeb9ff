"""Billing periods against the oracle: any zone of the catalog, any anchor, any moment, clock changes first of all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from metering.periods import BillingCycle, parse_period, wall_to_instant
from tests import oracle
from tests.properties.proof import holds
from tests.properties.strategies import ZONES

EVERY = st.sampled_from(("day", "week", "month", "quarter", "year"))
ZONE = st.sampled_from((*ZONES, "Pacific/Apia", "America/Sao_Paulo"))
# Local times around which the clocks of these zones change, and any other time.
CHANGES = (
    "2011-12-30T00:00",
    "2018-11-04T00:00",
    "2026-03-08T02:00",
    "2026-03-29T02:00",
    "2026-04-05T02:00",
    "2026-04-24T00:00",
    "2026-09-06T00:00",
    "2026-10-04T02:00",
    "2026-10-25T02:00",
    "2026-11-01T01:00",
)
NEAR = st.builds(
    lambda text, minutes: datetime.fromisoformat(text) + timedelta(minutes=minutes),
    st.sampled_from(CHANGES),
    st.integers(-90, 90),
)
WALL = st.one_of(NEAR, st.datetimes(datetime(1990, 1, 1), datetime(2060, 1, 1)))  # noqa: DTZ001


@holds(300, wall=WALL, zone=ZONE)
def TestWallTimesAreTheOraclesInstants(wall: datetime, zone: str) -> None:
    assert wall_to_instant(wall, zone) == oracle.instant(wall, zone)


@holds(200, every=EVERY, anchor=WALL, zone=ZONE, at=WALL)
def TestAPeriodContainsItsInstant(every: str, anchor: datetime, zone: str, at: datetime) -> None:
    instant = at.replace(tzinfo=UTC)
    cycle = BillingCycle(every, anchor, zone)  # type: ignore[arg-type]
    number = cycle.number_at(instant)
    start, end = (oracle.boundary(anchor, every, number + step, zone) for step in (0, 1))
    assert (cycle.boundary(number), cycle.boundary(number + 1)) == (start, end)
    assert start <= instant < end


@holds(100, every=EVERY, anchor=WALL, zone=ZONE)
def TestPeriodsOfAMonthAreTheOracles(every: str, anchor: datetime, zone: str) -> None:
    month = parse_period("2026-03").in_zone(zone)
    cycle = BillingCycle(every, anchor, zone)  # type: ignore[arg-type]
    # A year to either side, so that every period that ends in the month is whole.
    year, wall = timedelta(days=370), anchor.isoformat()
    expected = [
        (period.start, period.end)
        for period in oracle.billing_periods(every, wall, zone, month.start - year, month.end + year)
        if month.start < period.end <= month.end
    ]
    assert [(period.start, period.end) for period in cycle.periods_ending_in(month)] == expected
