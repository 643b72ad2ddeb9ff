"""The prices of a plan, as the catalog files write them: one model per type of price.

Enters: texts of the catalog files. Leaves: frozen prices with exact Decimals.
Refuses: numbers with more decimals than are kept, filters on nothing, terms that contradict each other. What a price is
worth is worked out elsewhere (`rating/sql/charge_*.sql`); no amount is computed here.
Source: price models sections 2 and 3. A quantity is converted first, then the included units are taken off, then priced.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from metering.catalog import (
    AttributeName,
    Boolean,
    CatalogModel,
    MeterName,
    Place,
    Text,
    Whole,
    exact,
    name_of,
    read_attribute_value,
    refuse,
    refuse_at,
    unique,
)
from rating.tiers import Amount, PackageSize, Percent, PercentTiers, StairTiers, Tier, Tiers

__all__ = [
    "Conversion",
    "DynamicPrice",
    "FlatPrice",
    "GraduatedPercentagePrice",
    "GraduatedPrice",
    "MatrixPrice",
    "PackagePrice",
    "PercentagePrice",
    "Price",
    "StairstepPrice",
    "Tier",
    "UnitPrice",
    "UsagePrice",
    "VolumePrice",
    "Weights",
]

PriceId = Annotated[str, *name_of("price")]
# A factor of conversion. With these limits the conversion stays within whole numbers of 128 bits.
Divisor = Annotated[Decimal, *exact(digits=15, places=9, above=Decimal(0))]
Multiplier = Annotated[Decimal, *exact(digits=9, places=9, above=Decimal(0))]
Weight = Annotated[Decimal, *exact(digits=9, places=9, minimum=Decimal(0))]
PriceMultiplier = Annotated[Decimal, *exact(digits=6, places=6, above=Decimal(0))]
ANY = "any"
WhenChanged = Literal["at_once", "period_end"]


def _read_places(value: object) -> int:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or len(text) != 1 or text not in "0123456789":
        raise ValueError(f"{value!r} is not a number of decimals; write 0 to 9")
    return int(text)


def _read_cell_value(value: object) -> str:
    text = read_attribute_value(value)
    if any(character < " " for character in text):
        raise ValueError(f"{text!r} has a control character; write the value as it is printed")
    return text


def _read_where(value: object) -> dict[str, tuple[str, ...] | None]:
    if not isinstance(value, dict):
        raise ValueError("where is a mapping of attribute to value; write where: {direction: output}")
    chosen: dict[str, tuple[str, ...] | None] = {}
    mistakes: list[tuple[Place, str]] = []
    for name, given in value.items():
        if given == ANY:
            # The attribute is present, whatever its value. A value that is the word itself is written in a list: [any].
            chosen[name] = None
            continue
        values = list(given) if isinstance(given, list | tuple) else [given]
        try:
            # Filters have no order, so their values get one: the same terms are always written the same.
            read = chosen[name] = tuple(sorted({read_attribute_value(item) for item in values}))
        except ValueError as refused:
            mistakes.append(((str(name),), str(refused)))
        else:
            if len(read) != len(values) or not values:
                mistakes.append(((str(name),), "write at least one value, and each value once"))
    if mistakes:
        refuse(mistakes)
    return chosen


def _write_where(where: dict[str, tuple[str, ...] | None]) -> dict[str, tuple[str, ...] | str]:
    return {name: ANY if values is None else values for name, values in where.items()}


Where = Annotated[
    dict[AttributeName, tuple[str, ...] | None],
    BeforeValidator(_read_where),
    PlainSerializer(_write_where, return_type=dict[str, tuple[str, ...] | str]),
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
        }
    ),
]
Attributes = Annotated[tuple[AttributeName, ...], Field(min_length=1), AfterValidator(unique)]
AttributeValue = Annotated[str, BeforeValidator(_read_cell_value)]
Included = Annotated[Decimal, *exact(digits=29, places=9, minimum=Decimal(0))]
Places = Annotated[int, BeforeValidator(_read_places), WithJsonSchema({"type": "integer", "minimum": 0, "maximum": 9})]
SiblingName = Annotated[str, *name_of("sibling")]
By = Annotated[tuple[AttributeName, ...], AfterValidator(unique)]


class _Price(CatalogModel):
    id: PriceId = Field(description="names the price in its plan; part of the key of every charge, so keep it stable")
    description: Text | None = Field(default=None, description="the text of the invoice line")
    tax_code: Text | None = Field(default=None, description="what a tax calculator calls the thing that is sold")


class Conversion(CatalogModel):
    """Price in another unit than the meter's: thousands, or gigabytes. The quantity of the period is rounded, once."""

    divide: Divisor | None = Field(default=None, description="how many of the meter's units make one unit of the price")
    multiply: Multiplier | None = Field(default=None, description="how many units of the price make one of the meter's")
    rounding: Literal["none", "ceil", "floor", "half_up"] = Field(
        default="none",
        alias="round",
        description="to whole units: up, down, or half away from zero; none keeps 9 decimals",
    )
    places: Places = Field(default=0, description="decimals that the rounding keeps")

    @model_validator(mode="after")
    def _check_factor(self) -> Self:
        if (self.divide is None) == (self.multiply is None):
            refuse_at(
                "divide", message="a conversion divides or multiplies by one factor; write divide: 1000 (or multiply)"
            )
        if self.rounding == "none" and self.places:
            refuse_at(
                "places", message="places are for a rounding; write round: ceil, floor or half_up, or remove the key"
            )
        return self

    @property
    def factor(self) -> Fraction:
        """Return how many units of the price one unit of the meter is."""
        return 1 / Fraction(self.divide) if self.divide is not None else Fraction(self.multiply or 1)

    @property
    def places_kept(self) -> int:
        return 9 if self.rounding == "none" else self.places


class Weights(CatalogModel):
    """Units that count for more or less, by the value of an attribute: ten of 1 and twenty of 2.5 are sixty."""

    attribute: AttributeName = Field(description="the attribute that chooses the weight")
    values: Annotated[dict[AttributeValue, Weight], Field(min_length=1)] = Field(description="the weight of each value")
    default: Weight | None = Field(
        default=None, description="the weight of every other value, and of none; without it, such use is refused"
    )


class _UsagePrice(_Price):
    meter: MeterName = Field(description="the meter whose usage is priced")
    where: Where = Field(default_factory=dict, description="only events whose attributes have one of these values")
    by: By = Field(default=(), description="one quantity, and one set of tiers, per combination of these attributes")
    sibling: SiblingName | None = Field(
        default=None,
        description="prices of one sibling name split the meter's events; each goes to the most particular",
    )
    groups_max: Whole | None = Field(
        default=None, description="more combinations than this of one tenant stop rating with a named error"
    )
    cut: Literal["any", "period_end"] | None = Field(
        default=None, description="booked at any cut, or when the period is over; by default what may fall waits"
    )


class _QuantityPrice(_UsagePrice):
    """A price of a quantity, which may be converted first, and a part of which may be included."""

    convert: Conversion | None = Field(default=None, description="the unit that is priced, if not the meter's own")
    included: Included | None = Field(default=None, description="units that cost nothing, in the unit that is priced")
    included_per: Literal["price", "group"] = Field(
        default="price", description="whether the included units are one pool over all groups, or each group has them"
    )
    price_per: Literal["hour", "day", "week", "month"] | None = Field(
        default=None, description="price every hour, day ... on its own: tiers, packages and included units start again"
    )

    weights: Weights | None = Field(default=None, description="what a unit counts for, by the value of an attribute")

    @model_validator(mode="after")
    def _check_included(self) -> Self:
        if self.weights is not None and self.price_per is not None:
            refuse_at("price_per", message="a price is split by weights or by time; remove one of the two keys")
        if self.included_per == "group" and (self.included is None or not self.by):
            refuse_at(
                "included_per", message="there is nothing to give to each group; write included and by, or remove it"
            )
        return self


class _TieredPrice(_QuantityPrice):
    tiers_over: Literal["group", "all_groups"] = Field(
        default="group",
        description="whether each group begins in the first tier, or all groups climb the tiers together",
    )

    @model_validator(mode="after")
    def _check_tiers_over(self) -> Self:
        if self.tiers_over == "all_groups" and not self.by:
            refuse_at("tiers_over", message="without by there is one group only; write by, or remove the key")
        return self


class FlatPrice(_Price):
    """`amount` once per billing period, whatever is used; for a part of a period its share, if `prorate`."""

    # A flat price looks at no usage. The names are here so that all prices can be asked alike.
    meter: ClassVar[None] = None
    where: ClassVar[dict[str, tuple[str, ...] | None]] = {}
    by: ClassVar[tuple[str, ...]] = ()

    type: Literal["flat"]
    amount: Amount = Field(description="money per billing period, such as 49.00")
    when: Literal["in_advance", "in_arrears"] = Field(
        default="in_advance", description="billed before the period it pays for, or after it"
    )
    prorate: Boolean = Field(default=True, description="whether a part of a period costs its share")
    per_unit_of: AttributeName | None = Field(
        default=None, description="the amount is for one unit of this, such as seats; subscriptions say how many"
    )
    when_more: WhenChanged = Field(default="at_once", description="when more units begin to count")
    when_fewer: WhenChanged = Field(default="at_once", description="when fewer units begin to count")
    trial_days: Whole | None = Field(default=None, description="how many days from the subscription's start are free")


class UnitPrice(_QuantityPrice):
    """`unit_price` for every unit."""

    type: Literal["unit"]
    unit_price: Amount = Field(description="money per unit, such as 0.0000125")


class GraduatedPrice(_TieredPrice):
    """Each unit at the unit price of its own tier; a tier's flat amount once usage goes beyond the tier before."""

    type: Literal["graduated"]
    tiers: Tiers = Field(description="rising tiers, the last without up_to")


class VolumePrice(_TieredPrice):
    """All units at the unit price of the tier that the whole quantity reaches, and that tier's flat amount."""

    type: Literal["volume"]
    tiers: Tiers = Field(description="rising tiers, the last without up_to")


class PackagePrice(_QuantityPrice):
    """`package_price` for every package of `package_size` units, a started one too."""

    type: Literal["package"]
    package_size: PackageSize = Field(description="units in a package, greater than 0")
    package_price: Amount = Field(description="money per package")
    part: Literal["up", "down"] = Field(
        default="up", description="whether a started package is a whole one, or only full packages count"
    )


class StairstepPrice(_TieredPrice):
    """The flat amount of the tier that the whole quantity reaches, and nothing per unit."""

    type: Literal["stairstep"]
    tiers: StairTiers = Field(description="rising tiers, the last without up_to")


class GraduatedPercentagePrice(_TieredPrice):
    """A percentage of the sum of values, each part of it at the percentage of its own tier."""

    type: Literal["graduated_percentage"]
    tiers: PercentTiers = Field(description="rising tiers, the last without up_to")


class PercentagePrice(_UsagePrice):
    """A percentage of the money that the meter counts, and an amount per event.

    The first `free_events`, and the first `free_units` of money, are free; whichever ends first ends both. What an event
    is worth is then raised to `event_minimum` or cut to `event_maximum`. Source: price models, section 2.3.
    """

    type: Literal["percentage"]
    percent: Percent = Field(description="percent of the sum of quantities, such as 2.9")
    fixed_amount: Amount = Field(default=Decimal(0), description="money per charged event, such as 0.30")
    free_events: Whole | None = Field(default=None, description="the first events of a period that cost nothing")
    free_units: Included | None = Field(default=None, description="the first money of a period that costs nothing")
    event_minimum: Amount | None = Field(default=None, description="a charged event costs at least this")
    event_maximum: Amount | None = Field(default=None, description="a charged event costs at most this")

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        least, most = self.event_minimum, self.event_maximum
        if least is not None and most is not None and least > most:
            refuse_at("event_maximum", message="it is below event_minimum; swap or correct them")
        return self

    @property
    def is_by_event(self) -> bool:
        """Return whether the events have to be walked through one by one; if not, sum and number say it all."""
        terms = (self.free_events, self.free_units, self.event_minimum, self.event_maximum)
        return any(term is not None for term in terms)


class MatrixCell(CatalogModel):
    """One cell of a matrix: a value of each attribute, and what a unit costs there."""

    values: tuple[AttributeValue, ...] = Field(description="one value per attribute of the matrix, in their order")
    unit_price: Amount = Field(description="money per unit in this cell")


class MatrixPrice(_UsagePrice):
    """A unit price per combination of attribute values, all on one line. What no cell names has the default price."""

    type: Literal["matrix"]
    attributes: Attributes = Field(description="the attributes that choose the cell")
    cells: tuple[MatrixCell, ...] = Field(description="the cells, each combination of values once")
    default_unit_price: Amount | None = Field(
        default=None, description="money per unit in every other cell; without it, use in one is refused, never free"
    )

    @model_validator(mode="after")
    def _check_cells(self) -> Self:
        mistakes: list[tuple[Place, str]] = []
        seen: dict[tuple[str, ...], int] = {}
        for at, cell in enumerate(self.cells):
            first = seen.setdefault(cell.values, at)
            if len(cell.values) != len(self.attributes):
                wanted = ", ".join(self.attributes)
                mistakes.append(
                    (("cells", at, "values"), f"the matrix has {wanted}; write one value for each, in this order")
                )
            elif first != at:
                mistakes.append((("cells", at, "values"), f"cells[{first}] has the same values; remove one of the two"))
        if mistakes:
            refuse(mistakes)
        return self


class DynamicPrice(_UsagePrice):
    """Each event carries its own price, as plain decimal text or a number: per unit, or as an amount of the event."""

    type: Literal["dynamic"]
    price_attribute: AttributeName = Field(description="the attribute of the event that carries the price")
    carries: Literal["unit_price", "amount"] = Field(
        default="unit_price", description="whether it is money per unit, or the amount of the whole event"
    )
    multiplier: PriceMultiplier = Field(
        default=Decimal(1), description="what is carried is multiplied by this, such as 1.15"
    )
    default: Amount | None = Field(
        default=None, description="instead of a price that is missing or no plain decimal; without it, that is refused"
    )

    @property
    def places(self) -> int:
        """Return how many decimals a carried price may have, so that with the multiplier 12 are enough."""
        return 12 - _places_of(self.multiplier)

    @model_validator(mode="after")
    def _check_default(self) -> Self:
        if self.default is not None and _places_of(self.default) > self.places:
            refuse_at(
                "default", message=f"times the multiplier it has more than 12 decimals; write at most {self.places}"
            )
        return self


def _places_of(number: Decimal) -> int:
    exponent = number.normalize().as_tuple().exponent
    return -exponent if isinstance(exponent, int) and exponent < 0 else 0


UsagePrice = (
    UnitPrice
    | GraduatedPrice
    | VolumePrice
    | PackagePrice
    | StairstepPrice
    | GraduatedPercentagePrice
    | PercentagePrice
    | MatrixPrice
    | DynamicPrice
)
Price = Annotated[FlatPrice | UsagePrice, Field(discriminator="type")]
