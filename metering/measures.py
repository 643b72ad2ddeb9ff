"""How a meter turns events into a quantity, beyond the name of its aggregation: two steps, carrying, shares of days, rounding.

Enters: what the catalog says of a meter, already checked. Leaves: a frozen `Measure` with the words that the SQL joins, and
`way_of`, which names the statement that answers. Refuses nothing: metering.catalog and metering.questions do.
Source: price models, section 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

BILLION: Final = 10**9
# Microseconds of one unit of time, for integrals of a level: GB-hours instead of the mean of the period.
PER_US: Final = {"second": 10**6, "hour": 3600 * 10**6, "day": 86400 * 10**6}
MERGED: Final = ("count", "sum", "max", "min", "average")
ADDED: Final = ("count", "sum")
ORDERED: Final = ("first", "last")
RECURRING: Final = ("sum", "last", "unique_count", "time_weighted_sum")
BUCKETED: Final = ("sum", "max", "min", "average", "percentile")


@dataclass(frozen=True, slots=True)
class PerBucket:
    """The inner step of an aggregation in two: `value` of each bucket of `length`; an empty one is skipped, or zero."""

    length: str
    value: str = "sum"
    empty: str = "skipped"


@dataclass(frozen=True, slots=True)
class Rounding:
    """The meter's own rounding of a quantity: `round` (half away from zero), `ceil` or `floor`, to `places` decimals."""

    mode: str
    places: int = 0

    @property
    def step_billionths(self) -> int:
        """Return the step in billionths of a unit: places -1 are steps of ten units."""
        power: int = 10 ** (9 - self.places)
        return power


@dataclass(frozen=True, slots=True)
class Measure:
    """What the catalog says of a meter besides its aggregation; the defaults are those of a plain meter."""

    operation_attribute: str | None = None
    events: str = "delta"
    per: str | None = None
    percentile: Decimal | None = None
    per_bucket: PerBucket | None = None
    carry: str = "period_only"
    prorate: str | None = None
    rounding: Rounding | None = None

    @property
    def is_recurring(self) -> bool:
        return self.carry == "recurring"

    @property
    def percentile_billionths(self) -> int | None:
        return None if self.percentile is None else int(self.percentile * BILLION)


PLAIN: Final = Measure()


def way_of(aggregation: str, measure: Measure) -> str | None:
    """Return which statement answers: the `way` of the selector, as `metering/sql/answer_<way>.sql`. None: there is none."""
    if measure.per_bucket is not None:
        return "bucketed" if aggregation in BUCKETED else None
    if aggregation == "unique_count":
        if measure.prorate:
            return "unique_by_day"
        return "operations" if measure.operation_attribute else "distinct"
    if aggregation == "time_weighted_sum":
        return "level" if measure.events == "level" else "ordered"
    if aggregation == "sum" and measure.prorate:
        return "sum_by_day"
    if aggregation in ORDERED:
        return "ordered"
    return "merged" if aggregation in MERGED else None
