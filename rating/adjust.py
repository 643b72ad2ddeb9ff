"""What stands around the prices of a plan: discounts, commitments, maximums and minimums, as the catalog files write them.

Enters: texts of the catalog files. Leaves: frozen models with exact Decimals; which prices each of them covers.
Refuses: a discount that is neither percent nor amount, a factor below 1, scopes that name a price twice.
Source: price models, sections 3 and 4. In worth() they come after the price, in this order: percent discounts, fixed
ones, commitments, maximums, and, once the period is over, minimums. All of them hold on the cumulative net; maximums and
minimums on that of the rounded lines, so that the paper adds up.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeGuard

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, WithJsonSchema, model_validator

from metering.catalog import Boolean, CatalogModel, Place, Text, exact, name_of, refuse_at, unique
from rating.catalog_times import CatalogTime, Currency, when_text
from rating.prices import PriceId

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ONE_PERIOD = "once"
# All billing periods that a subscription is on a plan version.
PLAN_LIFE: Literal["plan_life"] = "plan_life"
# Who approved what is given away, and why: said beside the terms, and no part of what anything is worth.
APPROVAL = ("approved_by", "reason")


def _read_periods(value: object) -> int:
    if value == ONE_PERIOD:
        return 1
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(text, str) and text.isascii() and text.isdigit() and 1 <= int(text) <= 9999:
        return int(text)
    raise ValueError(f"{str(value)[:60]!r} is not a number of billing periods; write once, or 1, 2, 3 ...")


def _read_pot(value: object) -> int | str:
    if value == PLAN_LIFE:
        return PLAN_LIFE
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(text, str) and text.isascii() and text.isdigit() and 1 <= int(text) <= 9999:
        return int(text)
    raise ValueError(
        f"{str(value)[:60]!r} is not a number of billing periods; write 2, 3, 12 ..., or plan_life for all of them together"
    )


AdjustmentId = Annotated[str, *name_of("adjustment")]
PositiveAmount = Annotated[Decimal, *exact(digits=12, places=12, minimum=Decimal(0))]
Percent = Annotated[Decimal, *exact(digits=3, places=4, above=Decimal(0))]
Factor = Annotated[Decimal, *exact(digits=3, places=6, minimum=Decimal(1))]
PriceIds = Annotated[tuple[PriceId, ...], AfterValidator(unique)]
PlanNames = Annotated[tuple[Annotated[str, *name_of("plan")], ...], AfterValidator(unique)]
Periods = Annotated[
    int,
    BeforeValidator(_read_periods),
    WithJsonSchema({"anyOf": [{"const": ONE_PERIOD}, {"type": "integer", "minimum": 1}]}),
]
PotPeriods = Annotated[
    int | Literal["plan_life"],
    BeforeValidator(_read_pot),
    WithJsonSchema({"anyOf": [{"const": PLAN_LIFE}, {"type": "integer", "minimum": 1}]}),
]


class _Adjustment(CatalogModel):
    id: AdjustmentId = Field(description="names it; part of the key of its charges, so keep it stable")
    description: Text | None = Field(default=None, description="a sentence for the reader, or the text of its line")
    prices: PriceIds = Field(default=(), description="the ids of the prices it covers; left out: all of them")


class Discount(_Adjustment):
    """`percent` off every line it covers, or an `amount` once per billing period, shared out over them.

    It holds for the billing periods that begin in `[from, to)`, and for the first `periods` of these.
    """

    percent: Percent | None = Field(default=None, description="percent of the net of each line, above 0 up to 100")
    amount: PositiveAmount | None = Field(default=None, description="money off per billing period; never below 0")
    currency: Currency | None = Field(default=None, description="of the amount; lines in others are left alone")
    plans: PlanNames = Field(default=(), description="the names of the plans it is limited to")
    starts_at: CatalogTime | None = Field(default=None, alias="from", description="the first instant of it")
    ends_at: CatalogTime | None = Field(
        default=None,
        validation_alias=AliasChoices("to", "until"),
        serialization_alias="to",
        description="the first instant after it (open end); left out, it goes on",
    )
    periods: Periods | None = Field(default=None, description="how many billing periods it lasts; once is 1")
    approved_by: Text | None = Field(default=None, description="who approved it, where it needs an approval")
    reason: Text | None = Field(default=None, description="why it is given")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.percent is None) == (self.amount is None):
            refuse_at(message="a discount is a percent or an amount; write one of the two")
        if self.percent is not None and self.percent > 100:
            refuse_at("percent", message=f"{self.percent} is more than the whole; write at most 100")
        if self.percent is not None and self.currency is not None:
            refuse_at("currency", message="a percent has no currency; leave it out")
        if self.approved_by is not None and self.reason is None:
            refuse_at("reason", message=f"{self.approved_by} approved it for a reason; write the reason")
        same_kind = type(self.starts_at) is type(self.ends_at)
        if self.starts_at is not None and self.ends_at is not None and same_kind and self.ends_at <= self.starts_at:
            what = f"{when_text(self.ends_at)} is not after from, {when_text(self.starts_at)}"
            refuse_at("to", message=f"{what}; the end is open, so write the first day that no longer counts")
        return self


class Maximum(_Adjustment):
    """No more than `amount` per billing period for the prices it covers together, on the net of discounts and on paper."""

    amount: PositiveAmount = Field(description="the most that these prices cost together per billing period")
    prorate: Boolean = Field(default=False, description="whether a part of a period has its share of the amount")


class Minimum(_Adjustment):
    """At least `amount` per billing period for the prices it covers; what is missing is a line of its own at its end."""

    amount: PositiveAmount = Field(description="the least that these prices cost together per billing period")
    prorate: Boolean = Field(default=True, description="whether a part of a period owes its share of the amount")


class Commitment(_Adjustment):
    """`amount` is promised per billing period, or per `periods` of them; beyond it prices cost `overage_factor` times as much.

    With `true_up` what is missing of the amount is a line of its own at the period's end. 50 promised, factor 1.5:
    80 cost 95, 30 cost 50, or 30 without true-up. `share` says which lines the amount is used up by; their sum is the same.
    Source: price models, section 4.2.
    """

    amount: PositiveAmount = Field(description="what is promised per billing period, or over its periods together")
    periods: PotPeriods = Field(
        default=1, description="how many billing periods it is one amount over, such as 12; plan_life: all of them"
    )
    overage_factor: Factor = Field(
        default=Decimal(1), description="from 1 on: what a unit beyond the amount costs more"
    )
    true_up: Boolean = Field(default=True, description="whether what is missing of the amount is owed")
    prorate: Boolean = Field(default=True, description="whether a part of a period has its share of the amount")
    share: Literal["in_order", "pro_rata"] = Field(
        default="in_order", description="lines are within the amount in the order of the plan, or each in proportion"
    )

    @model_validator(mode="after")
    def _check_share(self) -> Self:
        if self.periods == PLAN_LIFE and self.prorate:
            what = "the life of a plan has no length that a part of it could have a share of"
            refuse_at("prorate", message=f"{what}; write prorate: false, or a number of periods")
        return self


Adjustment = Discount | Maximum | Minimum | Commitment


def is_pot(one: Adjustment) -> TypeGuard[Commitment]:
    """Return whether something around the prices is one amount over several billing periods."""
    return isinstance(one, Commitment) and one.periods != 1


def scope_of(one: Adjustment, price_ids: Sequence[str]) -> tuple[str, ...]:
    """Return the ids of the prices of a plan that an adjustment covers, in the order of the plan."""
    return tuple(price_id for price_id in price_ids if not one.prices or price_id in one.prices)


def narrow_first(some: Iterable[Any], price_ids: Sequence[str]) -> list[Any]:
    """Return adjustments of one kind in the order they are applied: those of fewer prices first, then by id."""
    return sorted(some, key=lambda one: (len(scope_of(one, price_ids)), one.id))


def order_of(discount: Discount, discount_order: str, listed: int, *, of_account: bool) -> tuple[int, int, int, str]:
    """Return the place of a discount: limited to prices, then to plans, then for the whole account; percent, then fixed.

    What stands at a plan or a subscription is limited to it. Equals go by id. By the switch `discount_order` fixed ones may
    come first, or both in the order in which they are listed. Source: price models, sections 4.4 and 10.
    """
    limited = 1 if discount.plans or not of_account else 2
    scope = 0 if discount.prices else limited
    is_fixed = discount.percent is None
    if discount_order == "listed":
        return scope, 1, listed, discount.id
    if discount_order == "amount_first":
        return scope, 0 if is_fixed else 1, 0, discount.id
    return scope, 2 if is_fixed else 1, 0, discount.id


def check_adjustments(
    price_ids: Sequence[str],
    lists: dict[Literal["discounts", "commitments", "maximums", "minimums"], Sequence[Any]],
    *,
    min_max_order: str = "refused",
) -> list[tuple[Place, str]]:
    """Return what a plan says wrongly around its prices: ids that stand twice, prices that are none, a cap too low.

    A cap below a minimum is a mistake unless the plan's switch says which of the two wins.
    """
    mistakes: list[tuple[Place, str]] = []
    seen = dict.fromkeys(price_ids, "a price")
    for name, ones in lists.items():
        for at, one in enumerate(ones):
            if one.id in seen:
                mistakes.append(((name, at, "id"), f"{one.id!r} is also the id of {seen[one.id]}; rename one of them"))
            seen[one.id] = f"one of the {name}"
            mistakes += [
                ((name, at, "prices", place), f"there is no price {price_id!r} in this plan; {_known(price_ids)}")
                for place, price_id in enumerate(one.prices)
                if price_id not in price_ids
            ]
    floors = [*lists["minimums"], *(one for one in lists["commitments"] if one.true_up)]
    for at, maximum in enumerate(lists["maximums"] if min_max_order == "refused" else ()):
        capped = set(scope_of(maximum, price_ids))
        for floor in floors:
            periods = getattr(floor, "periods", 1)
            if periods == PLAN_LIFE or not set(scope_of(floor, price_ids)) <= capped:
                continue
            if Fraction(maximum.amount) * periods < Fraction(floor.amount):
                often = "" if periods == 1 else f" {periods} times"
                what = (
                    f"the maximum {maximum.amount:f}{often} is below {floor.amount:f}, the least that {floor.id!r} owes"
                )
                mistakes.append((("maximums", at, "amount"), f"{what}; raise the maximum or lower that amount"))
    return mistakes


def repeated(ones: Sequence[Discount]) -> list[tuple[Place, str]]:
    """Return the discounts whose id stands before them already, each with what to do."""
    ids = [one.id for one in ones]
    return [
        (("discounts", at, "id"), f"{one_id!r} is the id of two discounts; rename one of them")
        for at, one_id in enumerate(ids)
        if one_id in ids[:at]
    ]


def _known(price_ids: Sequence[str]) -> str:
    return f"write one of {', '.join(price_ids)}" if price_ids else "the plan has no prices yet"
