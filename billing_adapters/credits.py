"""Which invoices a credit note lowers, where a provider wants to know: pure, and to the last minor unit.

Enters: what a credit note gives back, and the earlier invoices of its account. Leaves: how much of each is lowered. Refuses: to
lower an invoice below zero. Ours says which lines it corrects; those invoices come first, the newest of them before the
others, and only then other invoices of the account, the newest first.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from billing_adapters.adapter import Lowered
from metering.numbers import exact_difference

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Earlier:
    """An invoice that may be lowered: what is left of it, and whether it booked a line that the credit note corrects."""

    invoice_id: str
    number: str
    issued_at: datetime
    left: Decimal
    is_corrected: bool


def lowered_by(given_back: Decimal, earlier: Sequence[Earlier]) -> tuple[Lowered, ...]:
    """Return what of an amount above zero lowers which invoice. What lowers none is the difference to their sum."""
    ordered = sorted(earlier, key=lambda one: (one.is_corrected, one.issued_at, one.number), reverse=True)
    rest, made = given_back, []
    for one in ordered:
        amount = min(rest, one.left)
        if amount > 0:
            made.append(Lowered(one.invoice_id, one.number, amount))
            rest = exact_difference(rest, amount)
    return tuple(made)
