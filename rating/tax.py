"""Taxes on an invoice, as somebody else's rule book says: ready for tax, not a tax engine.

Enters: an invoice, the tax code of each of its prices, and a calculator that knows rates. Leaves: net, tax and gross of
every line and of the invoice. Refuses: to know a rate, and to change what was invoiced: exclusive prices are the net,
inclusive ones the gross, and the invoice's own amounts stay as they are.

Rates are exact percents. Rounded per line, what is shown adds up; rounded per invoice, the tax of each (name, percent) is
rounded once from the exact taxes of its lines and shared out over them by largest remainder. Source: price models,
section 7: two lines of 0.06 at 10 % are 0.01 of tax when rounded per invoice and 0.02 per line.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, Protocol

from rating.iso4217 import minor_units
from rating.rounding import exact_sum, round_fraction
from rating.spans import plan_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rating.invoice import Invoice, InvoiceLine
    from rating.plans import Plan

RoundingLevel = Literal["line", "invoice"]


@dataclass(frozen=True, slots=True)
class TaxRate:
    """One tax on a line: `percent` of its net, such as 19 or 0.5."""

    name: str
    percent: Decimal


class TaxCalculator(Protocol):
    """What a tax engine must answer. It is asked once per invoice, so that a remote one needs one call."""

    def rates_of(self, invoice: Invoice, tax_codes: Sequence[str | None]) -> Sequence[Sequence[TaxRate]]:
        """Return the taxes of each line of the invoice, in the order of the lines; none: the line is not taxed."""
        ...


@dataclass(frozen=True, slots=True)
class FixedRates:
    """A calculator for who sells in one place: rates by tax code, and those of lines without a code."""

    by_code: Mapping[str, Sequence[TaxRate]]
    default: Sequence[TaxRate] = ()

    def rates_of(self, invoice: Invoice, tax_codes: Sequence[str | None]) -> Sequence[Sequence[TaxRate]]:
        return [self.default if code is None else self.by_code[code] for code in tax_codes]


@dataclass(frozen=True, slots=True)
class TaxedLine:
    """One line with its taxes; net + tax = gross. `taxes` are the parts of `tax`, one per rate."""

    line_id: str
    tax_code: str | None
    net: Decimal
    tax: Decimal
    gross: Decimal
    taxes: tuple[tuple[TaxRate, Decimal], ...]


@dataclass(frozen=True, slots=True)
class TaxedInvoice:
    """The taxes of one invoice; its sums are the sums of its lines."""

    invoice_id: str
    currency: str
    lines: tuple[TaxedLine, ...]

    @property
    def net(self) -> Decimal:
        return exact_sum([line.net for line in self.lines])

    @property
    def tax(self) -> Decimal:
        return exact_sum([line.tax for line in self.lines])

    @property
    def gross(self) -> Decimal:
        return exact_sum([line.gross for line in self.lines])


def tax_invoice(
    invoice: Invoice,
    plans: Mapping[str, Plan],
    calculator: TaxCalculator,
    *,
    level: RoundingLevel = "invoice",
) -> TaxedInvoice:
    """Return the taxes of an invoice. `plans` are by plan key (`Terms.plans`); they say tax codes and tax behavior.

    Inclusive: the amount of a line is gross, and its net = gross / (1 + sum of percents / 100), an exact rational.
    Tax is worked out before prepaid balances, on what was sold; where the plan's switch prepaid_and_tax says `before`, on what
    balances leave of a line. A price without a code, and a line that is not of a price
    (a minimum), has the code None. Raises ValueError when the calculator does not answer every line, and whatever the
    calculator raises for a code that it does not know.
    """
    codes = [_code_of(line, plans) for line in invoice.lines]
    rates = calculator.rates_of(invoice, codes)
    if len(rates) != len(codes):
        raise ValueError(f"the tax calculator answered {len(rates)} of {len(codes)} lines of {invoice.invoice_id}")
    digits = minor_units(invoice.currency)
    inclusive = [_plan_of(line, plans).tax_behavior == "inclusive" for line in invoice.lines]
    bases = _bases(invoice, plans)
    exact = [
        _exact_taxes(bases[line.line_id], rated, inclusive=is_gross)
        for line, rated, is_gross in zip(invoice.lines, rates, inclusive, strict=True)
    ]
    if level == "line":
        rounded = [[round_fraction(tax, digits) for tax in taxes] for taxes in exact]
    else:
        rounded = _round_per_invoice(rates, exact, digits)
    lines = []
    for line, code, rated, taxes, is_gross in zip(invoice.lines, codes, rates, rounded, inclusive, strict=True):
        tax = exact_sum([Decimal(0).scaleb(-digits), *taxes])
        net = line.amount - tax if is_gross else line.amount
        lines.append(TaxedLine(line.line_id, code, net, tax, net + tax, tuple(zip(rated, taxes, strict=True))))
    return TaxedInvoice(invoice.invoice_id, invoice.currency, tuple(lines))


def _bases(invoice: Invoice, plans: Mapping[str, Plan]) -> dict[str, Decimal]:
    """Return what of each line is taxed: its amount, or, as its plan reads it, what prepaid balances did not pay."""
    bases = {line.line_id: line.amount for line in invoice.lines}
    before = {line.line_id for line in invoice.lines if _plan_of(line, plans).reading["prepaid_and_tax"] == "before"}
    for burned in invoice.prepaid:
        if burned.line_id in before:
            bases[burned.line_id] -= burned.amount
    return bases


def _plan_of(line: InvoiceLine, plans: Mapping[str, Plan]) -> Plan:
    return plans[plan_key(line.plan, line.plan_version)]


def _code_of(line: InvoiceLine, plans: Mapping[str, Plan]) -> str | None:
    return next((price.tax_code for price in _plan_of(line, plans).prices if price.id == line.price_id), None)


def _exact_taxes(amount: Decimal, rates: Sequence[TaxRate], *, inclusive: bool) -> list[Fraction]:
    """Return each tax of an amount as an exact rational; `inclusive`: the amount contains them."""
    shares = [Fraction(rate.percent) / 100 for rate in rates]
    net = Fraction(amount) / (1 + sum(shares)) if inclusive else Fraction(amount)
    return [net * share for share in shares]


def _round_per_invoice(
    rates: Sequence[Sequence[TaxRate]], exact: Sequence[Sequence[Fraction]], digits: int
) -> list[list[Decimal]]:
    """Round the sum of each tax once, and share it out: floors first, then one unit each by largest remainder."""
    rounded = [[Decimal(0).scaleb(-digits)] * len(taxes) for taxes in exact]
    places: defaultdict[TaxRate, list[tuple[int, int]]] = defaultdict(list)
    for at, rated in enumerate(rates):
        for position, rate in enumerate(rated):
            places[rate].append((at, position))
    for taken in places.values():
        parts = {place: exact[place[0]][place[1]] for place in taken}
        total = round_fraction(sum(parts.values(), Fraction(0)), digits)
        # Credits and charges are shared out together: what a line bears is its exact tax, to within a minor unit.
        floors = {place: (part.numerator * 10**digits) // part.denominator for place, part in parts.items()}
        units = int(total.scaleb(digits)) - sum(floors.values())
        by_remainder = sorted(parts, key=lambda place: (floors[place] - parts[place] * 10**digits, place))
        for place in by_remainder[:units]:
            floors[place] += 1
        for at, position in taken:
            rounded[at][position] = Decimal(floors[at, position]).scaleb(-digits)
    return rounded
