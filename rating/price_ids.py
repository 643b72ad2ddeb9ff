"""The selectors by which a price asks usage: its own, and those of what it looks at besides.

Enters: prices. Leaves: ids of selectors; no two are the same in one plan. Refuses: to know what is asked.
"""

from __future__ import annotations

from typing import Any

# Between the id of a price and what it looks at besides its own meter. No name has this character.
OTHER_METER = "\x1d"
BEFORE = "\x1e"


def selector_id_of(price: Any, meter: str) -> str:
    """Return the selector that asks for a meter of a price: its id, and the meter too for all but the first."""
    return str(price.id) if meter == price.meters_read[0] else f"{price.id}{OTHER_METER}{meter}"


def selector_before(price: Any) -> str:
    """Return the selector that asks for what was used on the plan before the span."""
    return f"{price.id}{BEFORE}"


def is_since_plan(price: Any) -> bool:
    """Return whether the tiers of a price go on from period to period."""
    return getattr(price, "tiers_since", "period") == "plan_start"
