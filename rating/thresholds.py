"""Thresholds: an account is invoiced as soon as its open period is worth enough, not only when the period ends.

Enters: the amounts at which an account is invoiced, what was invoiced of the period and what it is worth now.
Leaves: the thresholds that were passed since. Refuses: to move the period's start, to restart a tier or an allowance:
a threshold invoice is an early cut and nothing else. Source: price models, section 6.3; recurrences count from the
largest fixed threshold, as its display does: 50, then every 100 means 50, 150, 250.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from metering.catalog import CatalogModel, exact, refuse_at
from rating.rounding import round_fraction

RATIO_PLACES = 9
_Amount = Annotated[Decimal, *exact(digits=12, places=4, above=Decimal(0))]


def _rising(amounts: tuple[Decimal, ...]) -> tuple[Decimal, ...]:
    if any(after <= before for before, after in pairwise(amounts)):
        raise ValueError("the amounts do not rise; sort them and write each once")
    return amounts


class InvoiceThresholds(CatalogModel):
    """The amounts of open charges in a billing period at which an account is invoiced early."""

    amounts: Annotated[tuple[_Amount, ...], AfterValidator(_rising)] = Field(
        default=(), description="invoice when the period's worth reaches each of these, rising"
    )
    every: _Amount | None = Field(default=None, description="and then again each time it grew by this much more")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.amounts and self.every is None:
            refuse_at(message="there is no threshold; write amounts, every, or both")
        return self


def thresholds_passed(
    amounts: tuple[Decimal, ...], every: Decimal | None, invoiced: Decimal, worth: Decimal, *, from_zero: bool = False
) -> tuple[Decimal, ...]:
    """Return the thresholds t with invoiced < t <= worth, rising; of many recurrences only the last one.

    `from_zero` (switch threshold_count): once the largest fixed threshold is invoiced, recurrences are multiples of
    `every`; 50, then every 100 means 50, 150, and then 200, 300, 400.

    >>> thresholds_passed((Decimal(50),), Decimal(100), Decimal(350), Decimal(450))
    (Decimal('450'),)
    """
    passed = [amount for amount in amounts if invoiced < amount <= worth]
    if every is not None:
        first = amounts[-1] if amounts and not (from_zero and invoiced >= amounts[-1]) else Decimal(0)
        times = (worth - first) // every
        last = first + times * every
        if times >= 1 and invoiced < last:
            passed.append(last)
    return tuple(passed)


@dataclass(frozen=True, slots=True)
class ThresholdStep:
    """One threshold and how far a worth is on its way to it from the one before: 0 to 1, nine places; 1 is reached."""

    amount: Decimal
    ratio: Decimal


def thresholds_ahead(amounts: tuple[Decimal, ...], every: Decimal | None, worth: Decimal) -> list[ThresholdStep]:
    """Return every fixed threshold, then the recurrences that are reached and the next one. For display.

    >>> thresholds_ahead((Decimal(100),), Decimal(200), Decimal(323))[-1]
    ThresholdStep(amount=Decimal('500'), ratio=Decimal('0.115000000'))
    """
    steps = list(amounts)
    if every is not None:
        first = amounts[-1] if amounts else Decimal(0)
        reached = max(int((worth - first) // every), 0)
        steps += [first + number * every for number in range(1, reached + 2)]
    return [
        ThresholdStep(amount, _ratio(worth - before, amount - before))
        for before, amount in pairwise([Decimal(0), *steps])
    ]


def _ratio(done: Decimal, whole: Decimal) -> Decimal:
    return round_fraction(min(max(Fraction(done) / Fraction(whole), Fraction(0)), Fraction(1)), RATIO_PLACES)
