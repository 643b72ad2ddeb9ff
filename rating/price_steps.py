"""What a price takes of its meter, and what becomes of the quantity before and around the price.

Enters: texts of the catalog files. Leaves: frozen models: filters, conversions, weights, combinations with another meter,
what is promised per bucket of time, limits of a line. Refuses: filters on nothing, numbers with more decimals than are kept.
Source: price models, sections 1.9, 1.11, 2.4 and 4.2.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from metering.catalog import (
    AttributeName,
    Boolean,
    CatalogModel,
    MeterName,
    Place,
    exact,
    read_attribute_value,
    refuse,
    refuse_at,
)

# A factor of conversion. With these limits the conversion stays within whole numbers of 128 bits.
Divisor = Annotated[Decimal, *exact(digits=15, places=9, above=Decimal(0))]
Multiplier = Annotated[Decimal, *exact(digits=9, places=9, above=Decimal(0))]
Weight = Annotated[Decimal, *exact(digits=9, places=9, minimum=Decimal(0))]
Promised = Annotated[Decimal, *exact(digits=12, places=12, minimum=Decimal(0))]
OverageFactor = Annotated[Decimal, *exact(digits=3, places=6, minimum=Decimal(1))]
ANY = "any"


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
AttributeValue = Annotated[str, BeforeValidator(_read_cell_value)]
Places = Annotated[int, BeforeValidator(_read_places), WithJsonSchema({"type": "integer", "minimum": 0, "maximum": 9})]


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


class Combination(CatalogModel):
    """What the quantity of the meter is put together with: the quantity of another meter, of the same groups and time."""

    how: Literal["divide", "multiply", "add", "subtract"] = Field(
        alias="by", description="divide by the other quantity (by nothing: 0), multiply, add, or subtract (not below 0)"
    )
    meter: MeterName = Field(description="the other meter")
    where: Where = Field(default_factory=dict, description="only events of the other meter that have these values")


class LineLimits(CatalogModel):
    """What a line, one group of `by`, costs at least and at most. Lines of 4, 40 and 400 within 10 and 100 are 150."""

    minimum: Promised | None = Field(default=None, description="each line costs at least this, once it is there")
    maximum: Promised | None = Field(default=None, description="each line costs at most this")
    prorate: Boolean = Field(default=False, description="whether in a part of a period the minimum is its share")

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        if self.minimum is None and self.maximum is None:
            refuse_at(message="there is no limit; write a minimum, a maximum, or both")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            refuse_at("maximum", message="it is below the minimum; swap or correct them")
        if self.prorate and self.minimum is None:
            refuse_at("prorate", message="only the minimum has a share; write a minimum, or remove the key")
        return self


class BucketCommitment(CatalogModel):
    """What is promised for every bucket of time by itself. 50 promised, factor 1.5: a bucket of 80 costs 95, one of 30 is 50."""

    amount: Promised = Field(description="what is promised per bucket")
    overage_factor: OverageFactor = Field(
        default=Decimal(1), description="from 1 on: what a unit beyond the amount costs more"
    )
    true_up: Boolean = Field(default=True, description="whether what is missing in a bucket that is over is owed")
