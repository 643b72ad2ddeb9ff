"""Prepaid balances: money granted in advance that pays invoice lines before the customer does.

Enters: the lines of an invoice, the balances of its account, and what earlier invoices burned of them.
Leaves: burns, one row per (line, balance) that says what was taken (or, negative, given back); what is left of a balance.
Refuses: another currency, to go below zero, and parts of a minor unit, which would be stuck for ever.

A balance is in force for a line when its [effective, expires) meets the line's service period: money that was valid in
October pays October's usage, whenever that is invoiced. Burn order: priority (lower first), expiry (none last),
effective, id; for lines of a plan whose switch says so, expiry before priority. A negative line gives back to the balances
that its own price and period was paid from, the last burned first. Source: price models, section 4.6.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from metering.catalog import CatalogModel, Text, decimal_text, exact, name_of, refuse_at, unique
from rating.iso4217 import minor_units
from rating.plans import AccountId, CatalogTime, Currency, instant_of
from rating.prices import PriceId
from rating.rounding import exact_sum, round_amount, round_fraction
from rating.spans import plan_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rating.invoice import InvoiceLine

PRIORITY_MAX = 1000
PRIORITY_DEFAULT = 100

# What makes a line the same line on every invoice of its period.
LineKey = tuple[str, datetime, datetime, str, str, str]


def _read_priority(value: object) -> int:
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdigit()) or int(text) > PRIORITY_MAX:
        raise ValueError(
            f"{text[:20]!r} is not a priority; write a whole number from 0 to {PRIORITY_MAX}, 0 burns first"
        )
    return int(text)


class Balance(CatalogModel):
    """Money granted in advance to a billing account. It is ended by `expires`, never deleted."""

    id: Annotated[str, *name_of("balance")] = Field(description="the stable identity of the balance")
    account: AccountId = Field(description="the billing account whose lines it pays")
    currency: Currency = Field(description="it pays lines in this currency only")
    amount: Annotated[Decimal, *exact(digits=12, places=4, above=Decimal(0))] = Field(description="money granted")
    paid: Annotated[Decimal, *exact(digits=12, places=4, minimum=Decimal(0))] | None = Field(
        default=None,
        description="what was paid for it; left out, its amount. Revenue recognized is burned x paid / amount",
    )
    priority: Annotated[int, BeforeValidator(_read_priority)] = Field(
        default=PRIORITY_DEFAULT, description="0 to 1000, lower burns first"
    )
    effective: CatalogTime = Field(description="from when on it pays; a date is midnight UTC")
    expires: CatalogTime | None = Field(default=None, description="the first instant at which it no longer pays")
    prices: Annotated[tuple[PriceId, ...], AfterValidator(unique)] = Field(
        default=(), description="the ids of the prices whose lines it pays; none: all"
    )
    description: Text | None = Field(default=None, description="a sentence for the reader")

    @model_validator(mode="after")
    def _check(self) -> Self:
        digits = minor_units(self.currency)
        for place in ("amount", "paid"):
            number: Decimal | None = getattr(self, place)
            if number is not None and round_amount(number, digits) != number:
                refuse_at(
                    place,
                    message=f"{decimal_text(number)} {self.currency} has more than {digits} decimals, and a part of a "
                    "minor unit could never be spent; write a whole number of minor units",
                )
        if self.expires is not None and self.ends_at <= self.starts_at:
            refuse_at("expires", message="it expires before it is effective; write a later time")
        return self

    @property
    def starts_at(self) -> datetime:
        return instant_of(self.effective, "UTC")

    @property
    def ends_at(self) -> datetime:
        return datetime.max.replace(tzinfo=UTC) if self.expires is None else instant_of(self.expires, "UTC")

    def pays(self, line: InvoiceLine) -> bool:
        """Return whether it may pay a line at all: its currency, price and service period."""
        return (
            line.currency == self.currency
            and (not self.prices or line.price_id in self.prices)
            and self.starts_at < line.service_end
            and self.ends_at > line.service_start
        )


@dataclass(frozen=True, slots=True)
class Burn:
    """What one balance paid of one line of an invoice; negative: what a credit line gave back to it."""

    line_id: str
    balance_id: str
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Burned:
    """A burn of an earlier invoice, in the order in which burns were booked, with the key of the line it paid."""

    line_key: LineKey
    balance_id: str
    amount: Decimal


def key_of(line: InvoiceLine) -> LineKey:
    """Return what makes a line the same line on every invoice of its period."""
    return (
        line.subscription_id, line.period_start, line.service_start, line.currency, line.price_id, line.group_key,
    )  # fmt: skip


def burn(
    lines: Sequence[InvoiceLine],
    balances: Iterable[Balance],
    before: Sequence[Burned],
    orders: Mapping[str, str] | None = None,
) -> list[Burn]:
    """Return what the balances of an account pay of the lines of one invoice, in the order of the lines.

    `orders` is the switch burn_order by plan key, where it is not `priority`. `before` are the burns of earlier invoices of
    the account, oldest first. Pure: the same invoice, balances and history give the same burns. Credit lines go first, so
    that what they give back pays the rest.
    """
    by_priority = sorted(balances, key=lambda one: (one.priority, one.ends_at, one.starts_at, one.id))
    by_expiry = sorted(by_priority, key=lambda one: one.ends_at)
    left = remaining(by_priority, before)
    made: list[Burn] = []
    for line in lines:
        if line.amount < 0:
            for given in _give_back(line, before):
                left[given.balance_id] -= given.amount
                made.append(given)
    for line in lines:
        owed = line.amount
        is_by_expiry = (orders or {}).get(plan_key(line.plan, line.plan_version)) == "expiry"
        for balance in by_expiry if is_by_expiry else by_priority:
            taken = min(owed, left[balance.id]) if balance.pays(line) else Decimal(0)
            if taken > 0:
                left[balance.id] -= taken
                owed -= taken
                made.append(Burn(line.line_id, balance.id, taken))
    return made


def remaining(balances: Iterable[Balance], before: Iterable[Burned]) -> dict[str, Decimal]:
    """Return what is left of each balance after the burns so far."""
    left = {balance.id: balance.amount for balance in balances}
    for burned in before:
        if burned.balance_id in left:
            left[burned.balance_id] -= burned.amount
    return left


def _give_back(line: InvoiceLine, before: Sequence[Burned]) -> list[Burn]:
    """Return negative burns of a credit line: to the balances that paid the line, those burned last first."""
    owed = -line.amount
    key = key_of(line)
    net: defaultdict[str, Decimal] = defaultdict(Decimal)
    last: dict[str, int] = {}
    for at, burned in enumerate(before):
        if burned.line_key == key:
            net[burned.balance_id] += burned.amount
            last[burned.balance_id] = at if burned.amount > 0 else last.get(burned.balance_id, at)
    made = []
    for balance_id in sorted(net, key=lambda one: -last[one]):
        given = min(owed, net[balance_id])
        if given > 0:
            owed -= given
            made.append(Burn(line.line_id, balance_id, -given))
    return made


def amount_due(total: Decimal, burns: Iterable[Burn]) -> Decimal:
    """Return what is left to pay of an invoice: its total minus what balances paid."""
    return total - exact_sum([one.amount for one in burns])


def paid_of(balance: Balance, burned: Decimal) -> Decimal:
    """Return what had been paid for the part of a balance that is burned: burned x paid / amount, rounded once.

    Of one burn after others it is the difference of two of these, so that the parts add up to what was paid.
    """
    paid = balance.amount if balance.paid is None else balance.paid
    return round_fraction(Fraction(burned) * Fraction(paid) / Fraction(balance.amount), minor_units(balance.currency))


@dataclass(frozen=True, slots=True)
class BalanceState:
    """What became of one balance as of an instant. granted = burned + expired + left, exactly.

    `recognized` is the revenue that was earned by what was burned: burned x paid / granted, rounded once.
    """

    balance_id: str
    account_id: str
    currency: str
    granted: Decimal
    burned: Decimal
    expired: Decimal
    left: Decimal
    recognized: Decimal


def balance_states(
    balances: Iterable[Balance], before: Mapping[str, Sequence[Burned]], as_of: datetime
) -> list[BalanceState]:
    """Return the state of every balance; `before` are the burns by account. What is left at expiry is expired."""
    states = []
    for balance in balances:
        digits = minor_units(balance.currency)
        left = remaining([balance], before.get(balance.account, ()))[balance.id]
        burned = balance.amount - left
        expired = left if balance.ends_at <= as_of else Decimal(0)
        states.append(
            BalanceState(
                balance_id=balance.id,
                account_id=balance.account,
                currency=balance.currency,
                granted=round_amount(balance.amount, digits),
                burned=round_amount(burned, digits),
                expired=round_amount(expired, digits),
                left=round_amount(left - expired, digits),
                recognized=paid_of(balance, burned),
            )
        )
    return states
