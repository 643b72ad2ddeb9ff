"""The prices of a plan: flat, unit, graduated, volume and package, as the catalog files write them.

Enters: texts of the catalog files. Leaves: frozen prices with exact Decimals.
Refuses: tiers that overlap, repeat or leave a quantity without a price; numbers with more decimals than are kept;
filters on nothing. What a price is worth is worked out elsewhere; no amount is computed here.
Source: price models sections 2.1 and 2.2. Tier edges are (lower, up_to]; zero usage sits in the first tier.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from metering.catalog import (
    AttributeName,
    Boolean,
    CatalogModel,
    MeterName,
    Place,
    Text,
    decimal_text,
    exact,
    name_of,
    read_attribute_value,
    refuse,
    refuse_at,
    unique,
)

# Unit prices and amounts: 12 decimals, below 10**12. A product with a decimal(38, 9) quantity stays exact.
Amount = Annotated[Decimal, *exact(digits=12, places=12)]
UpTo = Annotated[Decimal, *exact(digits=29, places=9, minimum=Decimal(0))]
PackageSize = Annotated[Decimal, *exact(digits=29, places=9, above=Decimal(0))]
PriceId = Annotated[str, *name_of("price")]


class Tier(CatalogModel):
    """A step of a tiered price: the units above the tier before it and up to and including `up_to` (none: open)."""

    up_to: UpTo | None = Field(
        default=None, description="the last quantity of the tier; left out in the last tier only"
    )
    unit_price: Amount = Field(default=Decimal(0), description="money per unit in this tier")
    flat_amount: Amount = Field(default=Decimal(0), description="money due once when the tier is entered")


def check_tiers(tiers: tuple[Tier, ...]) -> tuple[Tier, ...]:
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
    if last is not None:
        mistakes.append(
            (
                (len(tiers) - 1, "up_to"),
                f"the last tier ends at {decimal_text(last)}, and a quantity above it would fall into a gap without a "
                "price; leave out up_to in the last tier, or add a last tier without it",
            )
        )
    if mistakes:
        refuse(mistakes)
    return tiers


def _read_where(value: object) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise ValueError("where is a mapping of attribute to value; write where: {direction: output}")
    chosen: dict[str, tuple[str, ...]] = {}
    mistakes: list[tuple[Place, str]] = []
    for name, given in value.items():
        values = list(given) if isinstance(given, list | tuple) else [given]
        try:
            # Filters have no order, so their values get one: the same terms are always written the same.
            chosen[name] = tuple(sorted({read_attribute_value(item) for item in values}))
        except ValueError as refused:
            mistakes.append(((str(name),), str(refused)))
        else:
            if len(chosen[name]) != len(values) or not values:
                mistakes.append(((str(name),), "write at least one value, and each value once"))
    if mistakes:
        refuse(mistakes)
    return chosen


Tiers = Annotated[tuple[Tier, ...], AfterValidator(check_tiers)]
Where = Annotated[
    dict[AttributeName, tuple[str, ...]],
    BeforeValidator(_read_where),
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
        }
    ),
]
By = Annotated[tuple[AttributeName, ...], AfterValidator(unique)]


class _Price(CatalogModel):
    id: PriceId = Field(description="names the price in its plan; part of the key of every charge, so keep it stable")
    description: Text | None = Field(default=None, description="the text of the invoice line")


class _UsagePrice(_Price):
    meter: MeterName = Field(description="the meter whose usage is priced")
    where: Where = Field(default_factory=dict, description="only events whose attributes have one of these values")
    by: By = Field(default=(), description="one quantity, and one set of tiers, per combination of these attributes")


class FlatPrice(_Price):
    """`amount` once per billing period, whatever is used; for a part of a period its share, if `prorate`."""

    # A flat price looks at no usage. The names are here so that all prices can be asked alike.
    meter: ClassVar[None] = None
    where: ClassVar[dict[str, tuple[str, ...]]] = {}
    by: ClassVar[tuple[str, ...]] = ()

    type: Literal["flat"]
    amount: Amount = Field(description="money per billing period, such as 49.00")
    when: Literal["in_advance", "in_arrears"] = Field(
        default="in_advance", description="billed before the period it pays for, or after it"
    )
    prorate: Boolean = Field(default=True, description="whether a part of a period costs its share")


class UnitPrice(_UsagePrice):
    """`unit_price` for every unit."""

    type: Literal["unit"]
    unit_price: Amount = Field(description="money per unit, such as 0.0000125")


class GraduatedPrice(_UsagePrice):
    """Each unit at the unit price of its own tier; a tier's flat amount once usage goes beyond the tier before."""

    type: Literal["graduated"]
    tiers: Tiers = Field(description="rising tiers, the last without up_to")


class VolumePrice(_UsagePrice):
    """All units at the unit price of the tier that the whole quantity reaches, and that tier's flat amount."""

    type: Literal["volume"]
    tiers: Tiers = Field(description="rising tiers, the last without up_to")


class PackagePrice(_UsagePrice):
    """`package_price` for every started package of `package_size` units."""

    type: Literal["package"]
    package_size: PackageSize = Field(description="units in a package, greater than 0")
    package_price: Amount = Field(description="money per started package")


UsagePrice = UnitPrice | GraduatedPrice | VolumePrice | PackagePrice
Price = Annotated[FlatPrice | UnitPrice | GraduatedPrice | VolumePrice | PackagePrice, Field(discriminator="type")]
