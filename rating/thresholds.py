"""Thresholds: an account is invoiced as soon as its open period is worth enough, not only when the period ends.

Enters: the amounts at which an account is invoiced, what was invoiced of the period and what it is worth now.
Leaves: the thresholds that were passed since. Refuses: to move the period's start, to restart a tier or an allowance:
a threshold invoice is an early cut and nothing else. Source: price models, section 6.3; recurrences count from the
largest fixed threshold, as its display does: 50, then every 100 means 50, 150, 250.
"""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from metering.catalog import CatalogModel, exact, refuse_at

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
    amounts: tuple[Decimal, ...], every: Decimal | None, invoiced: Decimal, worth: Decimal
) -> tuple[Decimal, ...]:
    """Return the thresholds t with invoiced < t <= worth, rising; of many recurrences only the last one.

    >>> thresholds_passed((Decimal(50),), Decimal(100), Decimal(350), Decimal(450))
    (Decimal('450'),)
    """
    passed = [amount for amount in amounts if invoiced < amount <= worth]
    if every is not None:
        first = amounts[-1] if amounts else Decimal(0)
        times = (worth - first) // every
        last = first + times * every
        if times >= 1 and invoiced < last:
            passed.append(last)
    return tuple(passed)
