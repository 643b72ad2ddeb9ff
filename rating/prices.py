"""The prices of a plan, as the catalog files write them: one model per type of price.

Enters: texts of the catalog files. Leaves: frozen prices with exact Decimals.
Refuses: numbers with more decimals than are kept, filters on nothing, terms that contradict each other. What a price is
worth is worked out elsewhere (`rating/sql/charge_*.sql`); no amount is computed here.
Source: price models sections 2 and 3. A quantity is converted first, then the included units are taken off, then priced.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from entitlements.features import FeatureName
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
    refuse,
    refuse_at,
    unique,
)
from rating.amount_tiers import AmountTiers
from rating.price_steps import (
    AttributeValue,
    BucketCommitment,
    Combination,
    Conversion,
    LineLimits,
    Weights,
    Where,
)
from rating.tier_checks import check_group_prices, check_plain_tiers, refuse_said
from rating.tiers import Amount, CapacityTiers, PackageSize, Percent, PercentTiers, StairTiers, Tier, Tiers

__all__ = [
    "CapacityPrice",
    "Conversion",
    "DynamicPrice",
    "FlatPrice",
    "GraduatedPercentagePrice",
    "GraduatedPrice",
    "MatrixPrice",
    "PackagePrice",
    "PercentOfPrice",
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
PercentOf = Annotated[Decimal, *exact(digits=3, places=4, above=Decimal(0))]
PriceMultiplier = Annotated[Decimal, *exact(digits=6, places=6, above=Decimal(0))]
WhenChanged = Literal["at_once", "period_end"]
Attributes = Annotated[tuple[AttributeName, ...], Field(min_length=1), AfterValidator(unique)]
Included = Annotated[Decimal, *exact(digits=29, places=9, minimum=Decimal(0))]
SiblingName = Annotated[str, *name_of("sibling")]
By = Annotated[tuple[AttributeName, ...], AfterValidator(unique)]


class _Price(CatalogModel):
    id: PriceId = Field(description="names the price in its plan; part of the key of every charge, so keep it stable")
    description: Text | None = Field(default=None, description="the text of the invoice line")
    tax_code: Text | None = Field(default=None, description="what a tax calculator calls the thing that is sold")

    @property
    def meters_read(self) -> tuple[str, ...]:
        """Return the meters whose usage decides what the price is worth; the first one is that of its line."""
        return ()


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
    line_limits: LineLimits | None = Field(
        default=None, description="what each line, one group of by, costs at least and at most"
    )
    amount_tiers: AmountTiers | None = Field(default=None, description="percentages off parts of what a line costs")

    @property
    def meters_read(self) -> tuple[str, ...]:
        return (self.meter,)


class _QuantityPrice(_UsagePrice):
    """A price of a quantity, which may be converted first, and a part of which may be included."""

    convert: Conversion | None = Field(default=None, description="the unit that is priced, if not the meter's own")
    included: Included | None = Field(default=None, description="units that cost nothing, in the unit that is priced")
    included_from: FeatureName | None = Field(
        default=None, description="units that cost nothing are those that the grants of this feature cover"
    )
    included_per: Literal["price", "group"] = Field(
        default="price", description="whether the included units are one pool over all groups, or each group has them"
    )
    price_per: Literal["hour", "day", "week", "month"] | None = Field(
        default=None, description="price every hour, day ... on its own: tiers, packages and included units start again"
    )

    prorate_included: Boolean = Field(
        default=False, description="whether a part of a billing period includes its share of the units"
    )
    weights: Weights | None = Field(default=None, description="what a unit counts for, by the value of an attribute")
    combine: Combination | None = Field(
        default=None, description="another meter that the quantity is put together with"
    )
    groups_priced: Literal["all", "largest"] = Field(
        default="all", description="whether every group costs something, or only the one with the largest quantity"
    )
    bucket_commitment: BucketCommitment | None = Field(
        default=None, description="what is promised for every hour, day ... of price_per"
    )

    @property
    def meters_read(self) -> tuple[str, ...]:
        return (self.meter,) if self.combine is None else (self.meter, self.combine.meter)

    @model_validator(mode="after")
    def _check_groups_priced(self) -> Self:
        if self.groups_priced == "largest":
            if not self.by:
                refuse_at("groups_priced", message="without by there is one group only; write by, or remove the key")
            pooled = self.included is not None and self.included_per == "price"
            shared = {
                "tiers_over": getattr(self, "tiers_over", "group") != "group",
                "price_per": self.price_per is not None,
            }
            refuse_said(
                {**shared, "included": pooled}, "only the largest group costs something, so groups share nothing"
            )
        return self

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.prorate_included and (self.included is None or self.price_per is not None):
            refuse_at(
                "prorate_included",
                message="a share is taken of the included units of a billing period; write included, without price_per",
            )
        if self.combine is not None and (self.weights is not None or self.combine.meter == self.meter):
            refuse_at("combine", message="a quantity is put together with that of another meter, without weights")
        if self.bucket_commitment is not None and (self.price_per is None or self.by):
            refuse_at(
                "bucket_commitment",
                message="it is promised for each bucket of the whole price; write price_per, not by",
            )
        return self

    @model_validator(mode="after")
    def _check_included_from(self) -> Self:
        if self.included_from is None:
            return self
        others = {"where": bool(self.where), "groups_priced": self.groups_priced != "all"}
        others |= {"included_per": self.included_per != "price", "prorate_included": self.prorate_included}
        names = ("included", "sibling", "convert", "price_per", "weights", "combine")
        others |= {name: getattr(self, name) is not None for name in names}
        refuse_said(others, f"grants cover all use of the meter of {self.included_from!r}, as it is")
        return self

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

    @model_validator(mode="after")
    def _check_unit_prices(self) -> Self:
        is_for_all = getattr(self, "type", None) == "volume" and self.tiers_over == "all_groups"
        check_group_prices(getattr(self, "tiers", ()), may_be=is_for_all and len(self.by) == 1)
        return self


class _HeldPrice(_TieredPrice):
    """A tiered price whose tiers may hold the units of a level, each paying for the share of the days it is held."""

    tiers_by: Literal["quantity", "held"] = Field(
        default="quantity",
        description="of a meter with prorate: whether the tiers hold the prorated quantity, or the units that are held",
    )

    @model_validator(mode="after")
    def _check_held(self) -> Self:
        if self.tiers_by == "quantity":
            return self
        others = {"tiers_over": self.tiers_over == "all_groups", "price_per": self.price_per is not None}
        names = ("convert", "included", "included_from", "weights", "combine")
        others |= {name: getattr(self, name) is not None for name in names}
        others["groups_priced"] = self.groups_priced != "all"
        refuse_said(others, "with tiers_by: held the units are priced as they are held")
        check_plain_tiers(getattr(self, "tiers", ()), "a unit that is held pays a share of its unit price; remove it")
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


class PercentOfPrice(_Price):
    """`percent` of what other prices of the plan cost together, before discounts: 10 % of 240 are 24, or 30 at least."""

    # It looks at prices, not at usage. The names are here so that all prices can be asked alike.
    meter: ClassVar[None] = None
    where: ClassVar[dict[str, tuple[str, ...] | None]] = {}
    by: ClassVar[tuple[str, ...]] = ()

    type: Literal["percent_of"]
    percent: PercentOf = Field(description="percent of the amounts of these prices, above 0, up to 4 decimals")
    prices: Annotated[tuple[PriceId, ...], Field(min_length=1), AfterValidator(unique)] = Field(
        description="the ids of the prices, none of which is a percent_of itself"
    )
    line_limits: LineLimits | None = Field(default=None, description="what it costs at least and at most")


class UnitPrice(_QuantityPrice):
    """`unit_price` for every unit."""

    type: Literal["unit"]
    unit_price: Amount = Field(description="money per unit, such as 0.0000125")


class GraduatedPrice(_HeldPrice):
    """Each unit at the unit price of its own tier; a tier's flat amount once usage goes beyond the tier before."""

    type: Literal["graduated"]
    tiers: Tiers = Field(description="rising tiers, the last without up_to")
    tiers_since: Literal["period", "plan_start"] = Field(
        default="period", description="whether tiers begin again in each period, or go on since the plan version began"
    )

    @model_validator(mode="after")
    def _check_since(self) -> Self:
        if self.tiers_since == "plan_start":
            plain: dict[str, object] = {"tiers_over": "group", "tiers_by": "quantity", "groups_priced": "all"}
            plain |= dict.fromkeys(("convert", "included", "included_from", "price_per", "weights", "combine"))
            plain |= dict.fromkeys(("sibling", "line_limits"))
            others = {name: getattr(self, name) != usual for name, usual in plain.items()}
            refuse_said(others, "the tiers hold all units since the plan began, as they are")
            check_plain_tiers(self.tiers, "a tier that goes on for many periods costs money per unit; remove it")
        return self


class VolumePrice(_HeldPrice):
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
    pool: Included | None = Field(default=None, description="units of all cells of a line together that cost nothing")
    pool_order: Literal["cheapest", "dearest", "pro_rata"] | None = Field(
        default=None,
        description="which units the pool takes first, or of all in proportion; needed with pool, for it decides the amount",
    )

    @model_validator(mode="after")
    def _check_cells(self) -> Self:
        mistakes: list[tuple[Place, str]] = []
        if (self.pool is None) != (self.pool_order is None):
            what = "a pool says which units it takes first; write pool and pool_order: cheapest, dearest or pro_rata"
            mistakes.append((("pool_order",), what))
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


class CapacityPrice(_Price):
    """One amount for what several meters reach together: that of the first tier all of whose limits hold.

    100 GB and 5 seats for 10.00, 500 GB and 20 seats for 25.00: 130 GB of 4 seats are 25.00. Without any use it is 0.
    Source: price models, section 1.7.
    """

    by: ClassVar[tuple[str, ...]] = ()
    sibling: ClassVar[None] = None
    groups_max: ClassVar[None] = None

    type: Literal["capacity"]
    meters: Annotated[tuple[MeterName, ...], Field(min_length=1), AfterValidator(unique)] = Field(
        description="the meters whose quantities are limited, such as the highest levels of a period"
    )
    where: Where = Field(default_factory=dict, description="only events whose attributes have one of these values")
    tiers: CapacityTiers = Field(description="tiers with rising limits, the last without any")
    cut: Literal["any", "period_end"] | None = Field(
        default=None, description="booked at any cut, or when the period is over; by default what may fall waits"
    )

    @property
    def meter(self) -> str:
        """Return the meter of its line: the first one."""
        return self.meters[0]

    @property
    def meters_read(self) -> tuple[str, ...]:
        return self.meters

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        mistakes: list[tuple[Place, str]] = [
            (
                ("tiers", at, "limits", name),
                f"the price does not look at meter {name!r}; write one of {', '.join(self.meters)}",
            )
            for at, tier in enumerate(self.tiers)
            for name in tier.limits
            if name not in self.meters
        ]
        if mistakes:
            refuse(mistakes)
        return self


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
    | CapacityPrice
)
Price = Annotated[FlatPrice | PercentOfPrice | UsagePrice, Field(discriminator="type")]
