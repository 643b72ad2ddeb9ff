"""What a provider that prices itself is told of usage: the total of a window, in numbers no finer than it takes.

Enters: the ledger of one series (a subscription's use of one name at a provider) up to the end of a window. Leaves: what to send
for the window. Refuses: to lose what is finer than the provider's unit, or late: it is carried into a later window.

    sent + carried = ledger       for every series, at every window, exactly

Where a later total of a window overwrites the earlier one (Stripe), a window is the difference of the ledger at its two ends,
each cut to the unit: a late event changes that window. Where the first write stays (AWS), it is the ledger at its end minus all
that went before: a late event, or a fraction, comes with the next window, and what is too much is owed until later windows make
it up.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from metering.numbers import exact_difference, exact_sum
from rating.allocation import carry_residue

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class UsageTotal:
    """A window `[start, end)` of a series: a source of `prepare` for adapters whose grain is an hour or an interval.

    `name` is what the provider calls it (dimension, event name), `quantity` what was used in the window, `before` the ledger
    of the series before it, `sent` what was sent of the series before (for providers whose first write stays).
    """

    account_id: str
    subscription_id: str
    name: str
    start: datetime
    end: datetime
    quantity: Decimal
    before: Decimal = Decimal(0)
    sent: Decimal = Decimal(0)

    @property
    def series(self) -> str:
        return f"{self.subscription_id} {self.name}"


def by_overwriting(total: UsageTotal, decimals: int) -> Decimal:
    """Return the total of a window where a later one overwrites it; sums over windows telescope to the ledger."""
    unit = Decimal(1).scaleb(-decimals)
    cut_before, _ = carry_residue(total.before, Decimal(0), unit)
    cut_after, _ = carry_residue(exact_sum([total.before, total.quantity]), Decimal(0), unit)
    return exact_difference(cut_after, cut_before)


def by_first_write(total: UsageTotal, decimals: int) -> tuple[Decimal, Decimal]:
    """Return (what to send for a window whose first write stays, what is carried). Never below zero.

    Carried is below one unit, or below zero where more was sent than there is: later windows are lowered by it.
    """
    unit = Decimal(1).scaleb(-decimals)
    ledger = exact_sum([total.before, total.quantity])
    now, _ = carry_residue(ledger, total.sent, unit)
    now = max(now, Decimal(0))
    return now, exact_difference(ledger, total.sent, now)
