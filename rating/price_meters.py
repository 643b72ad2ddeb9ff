"""Whether a price and its meter fit together.

Enters: a metered price and its meter. Leaves: mistakes, each with its place in the price and what to do.
Refuses: amounts per event of a meter whose events do not each count, or count below zero; prices carried by events whose
quantities are not added up; lines split in a way in which the meter has no answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metering.errors import BadSelector
from rating.dialect import STRICT, Switches
from rating.price_ids import is_since_plan
from rating.terms import selector_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metering.catalog import Meter, Place


def find_misfits(price: Any, meter: Meter, switches: Switches = STRICT) -> Iterator[tuple[Place, str]]:
    """Yield what keeps a metered price from pricing its meter, as (place in the price, sentence)."""
    if price.type == "percentage" and (price.is_by_event or price.fixed_amount):
        yield from _per_event(price, meter, switches)
    if price.type == "dynamic" and not _is_plain_sum(meter):
        yield (
            ("meter",),
            (
                f"each event of a dynamic price is worth its own quantity, and meter {meter.name!r} does not add them up as they "
                "are; price a meter with aggregation: sum and no more keys"
            ),
        )
    if getattr(price, "tiers_by", "quantity") == "held" and (meter.aggregation, meter.prorate) != ("sum", "day"):
        yield (
            ("tiers_by",),
            (
                f"units are held from day to day, and meter {meter.name!r} is no level of that kind; price a meter with "
                "aggregation: sum, carry: recurring and prorate: day, or remove the key"
            ),
        )
    if is_since_plan(price) and (not _adds_up(meter) or meter.negative_allowed):
        yield (
            ("tiers_since",),
            (
                f"tiers that go on from period to period hold what adds up and never falls, and meter {meter.name!r} is no such "
                "count or sum; price a meter with aggregation: sum or count, without negative_allowed and more keys"
            ),
        )
    if getattr(price, "included_from", None) is not None and price.by and not _adds_up(meter):
        yield (
            ("by",),
            (
                f"grants cover the use of meter {meter.name!r} as a whole, and its groups do not add up to it; price it "
                "without by, or a meter with aggregation: sum or count"
            ),
        )
    try:
        selector_of("", price, meter, switches)
    except BadSelector as refused:
        yield ("price_per",) if getattr(price, "price_per", None) else ("meter",), refused.message


def _per_event(price: Any, meter: Meter, switches: Switches) -> Iterator[tuple[Place, str]]:
    terms = ("fixed_amount", "free_events", "free_units", "event_minimum", "event_maximum")
    # A limit or an allowance of 0 is one; a fixed amount of 0 is none.
    term = next(
        name for name in terms if getattr(price, name) is not None and (getattr(price, name) or name != terms[0])
    )
    # An event below zero is charged the minimum, if there is one and nothing is free; where something is, sums must rise.
    is_charged = price.event_minimum is not None and (price.free_events, price.free_units) == (None, None)
    if meter.negative_allowed and not (is_charged and switches["negative_value"] == "minimum"):
        yield (
            (term,),
            (
                f"{term} looks at single events, and meter {meter.name!r} takes quantities below zero; void a wrong event "
                "instead of taking it back, with a meter without negative_allowed"
            ),
        )
    if not _is_plain_sum(meter):
        yield (
            (term,),
            (
                f"{term} looks at single events, and meter {meter.name!r} does not add them up as they are; price a meter with "
                "aggregation: sum and no more keys"
            ),
        )


def _adds_up(meter: Meter) -> bool:
    """Return whether the quantities of groups add up to that of the meter."""
    changed = (meter.per_bucket, meter.prorate, meter.rounding)
    return meter.aggregation in {"sum", "count"} and meter.carry == "period_only" and changed == (None, None, None)


def _is_plain_sum(meter: Meter) -> bool:
    """Return whether the quantity of a period is the sum of those of its events, and nothing else."""
    changed = (meter.per_bucket, meter.prorate, meter.rounding)
    return meter.aggregation == "sum" and meter.carry == "period_only" and changed == (None, None, None)
