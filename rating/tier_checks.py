"""What tiers may not say, and what may not be said beside them.

Enters: tiers that were read, and which keys a price has. Leaves: nothing.
Refuses: tiers that count packages, or limit what their units cost, where a unit pays a share or goes on for many periods;
unit prices of groups that do not reach one tier together; keys beside one that leaves no room for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metering.catalog import refuse_at
from rating.tiers import Step, Tier

if TYPE_CHECKING:
    from collections.abc import Mapping


def refuse_said(others: Mapping[str, bool], why: str) -> None:
    """Refuse the first key that is said beside another one that leaves no room for it."""
    for name, is_said in others.items():
        if is_said:
            refuse_at(name, message=f"{why}; remove {name}")


def check_plain_tiers(tiers: tuple[Tier, ...], message: str) -> None:
    """Refuse tiers that count packages or limit what their units cost."""
    for at, tier in enumerate(tiers):
        for name in ("package_size", "minimum", "maximum"):
            if getattr(tier, name) is not None:
                refuse_at("tiers", at, name, message=message)


def check_group_prices(tiers: tuple[Step, ...], *, may_be: bool) -> None:
    """Refuse unit prices of groups where no group has a tier's price of its own, or where the other groups' is not said."""
    for at, tier in enumerate(tiers):
        if not isinstance(tier, Tier) or not tier.unit_prices:
            continue
        if not may_be:
            message = (
                "groups have unit prices of their own where all of them reach one tier; write type: volume, "
                "tiers_over: all_groups and by with one attribute, or remove unit_prices"
            )
            refuse_at("tiers", at, "unit_prices", message=message)
        if "unit_price" not in tier.model_fields_set:
            message = "write unit_price too, which is what all other groups cost: nothing is free by oversight"
            refuse_at("tiers", at, "unit_price", message=message)
