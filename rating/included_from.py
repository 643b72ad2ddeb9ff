"""Prices whose included units come from the grants of an entitlement, and what such an entitlement must be.

Enters: the prices and entitlements of a plan, and the overrides of subscriptions. Leaves: mistakes, as places and sentences.
Refuses: entitlements whose overage is not settled with the billing period. What is over is charged for then, and must not be
taken from a later quota as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from entitlements.features import Entitlement
    from metering.catalog import Place


def features_of(prices: Iterable[Any]) -> dict[str, str]:
    """Return the prices that charge for the overage of a feature, by id, each with that feature."""
    charged = ((price.id, getattr(price, "included_from", None)) for price in prices)
    return {price_id: feature for price_id, feature in charged if feature is not None}


def check_included(prices: Sequence[Any], entitlements: Sequence[Entitlement]) -> Iterator[tuple[Place, str]]:
    """Yield what keeps the entitlements of a plan from saying what is included in its prices."""
    held = {one.feature: one for one in entitlements if one.type == "metered"}
    for at, price in enumerate(prices):
        feature = getattr(price, "included_from", None)
        if feature is None:
            continue
        place: Place = ("prices", at, "included_from")
        entitlement = held.get(feature)
        if entitlement is None:
            yield (
                place,
                f"the plan has no metered entitlement to {feature!r}; add it to entitlements, or correct the name",
            )
        elif entitlement.meter != price.meter:
            what = f"{feature!r} is measured by meter {entitlement.meter!r} and the price by {price.meter!r}"
            yield place, f"{what}; name one meter in both"
    charged = set(features_of(prices).values())
    for at, one in enumerate(entitlements):
        if one.feature in charged:
            yield from ((("entitlements", at, key), what) for key, what in misfits(one))


def misfits(entitlement: Entitlement) -> Iterator[tuple[str, str]]:
    """Yield what keeps an entitlement from having its overage charged for, as (key, sentence)."""
    if entitlement.type != "metered":
        return
    if entitlement.reset not in {None, "billing_period"}:
        what = "what is over is charged for with the billing period, so the quota begins anew with it"
        yield "reset", f"{what}; write billing_period, or price each day by price_per and included"
    if entitlement.keep_overage:
        yield "keep_overage", "what is over is charged for, and would be taken from the next quota as well; remove it"
