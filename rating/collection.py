"""When an invoice is collected: the earliest instant at which all of its usage can be expected to be known.

Enters: the lines that an invoice gathers, each with its instant and, if it has one, an end of collection of its own.
Leaves: the instant to look again, or to close. Refuses: to wait for what is not metered. Source: price models, section 5.7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime, timedelta

    from metering.periods import BillingCycle


@dataclass(frozen=True, slots=True)
class Collected:
    """One line that waits to be invoiced at `at`; a metered one until `ends_at`, or, without it, for the grace."""

    at: datetime
    is_metered: bool = False
    ends_at: datetime | None = None


def next_collection(lines: Iterable[Collected], cycle: BillingCycle | None = None) -> datetime | None:
    """Return when to gather next: the earliest line, or the first boundary of the cycle at or after it. None: no line."""
    first = min((line.at for line in lines), default=None)
    if first is None or cycle is None:
        return first
    number = cycle.number_at(first)
    return first if cycle.boundary(number) == first else cycle.boundary(number + 1)


def collection_ends(lines: Iterable[Collected], grace: timedelta) -> datetime | None:
    """Return when an invoice can be closed: the latest end over its metered lines. None: there is nothing to wait for.

    A line's own end takes the place of its instant plus grace, also where it is earlier.
    """
    ends = [line.ends_at or line.at + grace for line in lines if line.is_metered or line.ends_at]
    return max(ends, default=None)
