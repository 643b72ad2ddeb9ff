"""Percentages off parts of what a line costs: nothing off the first 1,000, 10 % off what is above them: 1,300 are 1,270.

Enters: texts of the catalog files. Leaves: frozen tiers of money, each with a percentage, in exact Decimals.
Refuses: edges that do not rise, a last tier that ends, percentages outside 0 to 100, more decimals than are kept. What is
taken off is worked out in `rating/sql/charge_amount_tier.sql`; no amount is computed here.
Source: price models, section 2.4 (matrix with amount threshold).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from metering.catalog import decimal_text, exact, refuse_at
from rating.tiers import Step, check_tiers, tiers_may_end

# Money, as amounts of prices; and a percentage that becomes a ratio of six decimals.
Edge = Annotated[Decimal, *exact(digits=12, places=12, above=Decimal(0))]
PercentOff = Annotated[Decimal, *exact(digits=3, places=4, minimum=Decimal(0))]


class AmountTier(Step):
    """A part of the amount of a line, and the percentage that is taken off it."""

    up_to: Edge | None = Field(default=None, description="the last money of the part; left out in the last tier only")
    percent_off: PercentOff = Field(description="percent off this part of the amount, from 0 to 100, up to 4 decimals")

    @model_validator(mode="after")
    def _check_percent(self) -> Self:
        if self.percent_off > 100:
            refuse_at(
                "percent_off", message=f"{decimal_text(self.percent_off)} is more than the whole; write at most 100"
            )
        return self


def check_amount_tiers(tiers: tuple[AmountTier, ...]) -> tuple[AmountTier, ...]:
    """Return the tiers if every amount has its percentages; also where a plan's tiers of units may end, these may not."""
    with tiers_may_end(False):
        return check_tiers(tiers)


AmountTiers = Annotated[tuple[AmountTier, ...], AfterValidator(check_amount_tiers)]
