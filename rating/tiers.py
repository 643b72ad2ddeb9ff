"""The tiers of a price: rising steps, each quantity in exactly one of them.

Enters: texts of the catalog files. Leaves: frozen tiers with exact Decimals.
Refuses: tiers that overlap, repeat or leave a quantity without a price; numbers with more decimals than are kept.
Source: price models section 2.1. Tier edges are (lower, up_to]; zero usage sits in the first tier.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Self, TypeVar

from pydantic import AfterValidator, Field, model_validator

from metering.catalog import CatalogModel, MeterName, Place, decimal_text, exact, refuse, refuse_at
from rating.price_steps import AttributeValue

if TYPE_CHECKING:
    from collections.abc import Iterator

# Whether the last of the tiers that are being read may end; a plan's switch tiers_past_end says so.
_MAY_END: ContextVar[bool] = ContextVar("tiers may end", default=False)


@contextmanager
def tiers_may_end(may_end: bool) -> Iterator[None]:
    """Read tiers of which the last may end, as one plan's switch allows it, or as all others do not."""
    token = _MAY_END.set(may_end)
    try:
        yield
    finally:
        _MAY_END.reset(token)


# Unit prices and amounts: 12 decimals, below 10**12. A product with a decimal(38, 9) quantity stays exact.
Amount = Annotated[Decimal, *exact(digits=12, places=12)]
UpTo = Annotated[Decimal, *exact(digits=29, places=9, minimum=Decimal(0))]
PackageSize = Annotated[Decimal, *exact(digits=29, places=9, above=Decimal(0))]

# A percentage becomes a unit price with two more decimals.
Percent = Annotated[Decimal, *exact(digits=9, places=10)]


class Step(CatalogModel):
    """What all tiers have: the units above the tier before and up to and including `up_to` (none: open)."""

    up_to: UpTo | None = Field(
        default=None, description="the last quantity of the tier; left out in the last tier only"
    )


class Tier(Step):
    """A step of a graduated or volume price: money per unit or per package, with limits, and a flat amount."""

    unit_price: Amount = Field(default=Decimal(0), description="money per unit in this tier")
    unit_prices: dict[AttributeValue, Amount] = Field(
        default_factory=dict, description="of a volume of all groups: money per unit in this tier, by the group's value"
    )
    flat_amount: Amount = Field(default=Decimal(0), description="money due once when the tier is entered")
    package_size: PackageSize | None = Field(
        default=None, description="unit_price is for every started package of so many units of the tier"
    )
    minimum: Amount | None = Field(default=None, description="the units of the tier cost at least this, once entered")
    maximum: Amount | None = Field(default=None, description="the units of the tier cost at most this")

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            refuse_at(
                "maximum",
                message=f"the maximum is below the minimum of {decimal_text(self.minimum)}; swap or correct them",
            )
        return self


class StairTier(Step):
    """A step of a stairstep price: one amount for every quantity in it."""

    flat_amount: Amount = Field(description="the amount of every quantity in this tier")


class PercentTier(Step):
    """A step of a graduated percentage: a percentage of the money in it, and a flat amount."""

    percent: Percent = Field(default=Decimal(0), description="percent of the part in this tier, such as 2.5")
    flat_amount: Amount = Field(default=Decimal(0), description="money due once when the tier is entered")


class CapacityTier(CatalogModel):
    """A step of a capacity: one amount for everything within its limits, which are inclusive."""

    limits: dict[MeterName, UpTo] = Field(
        default_factory=dict, description="the most that each meter may reach; one that is left out is not limited"
    )
    flat_amount: Amount = Field(description="the amount of whatever is within the limits")


def check_capacity(tiers: tuple[CapacityTier, ...]) -> tuple[CapacityTier, ...]:
    """Return the tiers if limits rise from tier to tier and the last has none; else refuse, naming both neighbours."""
    if not tiers:
        refuse_at(message="there is no tier; write at least one, the last without limits")
    mistakes: list[tuple[Place, str]] = []
    for at, tier in enumerate(tiers[1:], start=1):
        before = tiers[at - 1].limits
        narrower = [name for name, limit in tier.limits.items() if name not in before or limit < before[name]]
        if narrower or tier.limits == before:
            named = narrower[0] if narrower else "no limit"
            sentence = (
                f"{named} does not rise above tiers[{at - 1}], so tiers[{at}] is never reached by it; sort the tiers"
            )
            mistakes.append(((at, "limits"), sentence))
    if tiers[-1].limits:
        sentence = "the last tier has limits, and use beyond them would have no price; add a last tier without limits"
        mistakes.append(((len(tiers) - 1, "limits"), sentence))
    if mistakes:
        refuse(mistakes)
    return tiers


CapacityTiers = Annotated[tuple[CapacityTier, ...], AfterValidator(check_capacity)]

_Steps = TypeVar("_Steps", bound=tuple[Step, ...])


def check_tiers(tiers: _Steps) -> _Steps:
    """Return the tiers if every quantity from zero on has exactly one of them; else refuse, naming both neighbours."""
    if not tiers:
        refuse_at(message="there is no tier; write at least one, the last without up_to")
    mistakes: list[tuple[Place, str]] = []
    for at in range(1, len(tiers)):
        before, tier = tiers[at - 1].up_to, tiers[at].up_to
        if before is None or tier is None or tier > before:
            continue
        mistakes.append(
            (
                (at, "up_to"),
                f"{decimal_text(tier)} does not rise above {decimal_text(before)} of the tier before, so tiers[{at - 1}] "
                f"and tiers[{at}] overlap; sort the tiers and give each a greater up_to than the one before",
            )
        )
    for at, tier_ in enumerate(tiers[:-1]):
        if tier_.up_to is None:
            mistakes.append(
                (
                    (at,),
                    f"tiers[{at}] has no up_to and so takes all the rest, and tiers[{at + 1}] overlaps it; "
                    "write its up_to, or remove the tiers after it",
                )
            )
    last = tiers[-1].up_to
    if last is not None and not _MAY_END.get():
        mistakes.append(
            (
                (len(tiers) - 1, "up_to"),
                f"the last tier ends at {decimal_text(last)}, and what is above it would fall into a gap without a "
                "price; leave out up_to in the last tier, or add a last tier without it",
            )
        )
    if mistakes:
        refuse(mistakes)
    return tiers


Tiers = Annotated[tuple[Tier, ...], AfterValidator(check_tiers)]
StairTiers = Annotated[tuple[StairTier, ...], AfterValidator(check_tiers)]
PercentTiers = Annotated[tuple[PercentTier, ...], AfterValidator(check_tiers)]
