"""The lines of an invoice for Stripe with their taxes, in whole minor units.

Enters: lines with exact amounts, and the taxes that we worked out. Leaves: lines whose amounts and taxes add up to what is sent,
to the last unit. Refuses: to let Stripe work out a tax; `automatic_tax` is off, and no tax rate of Stripe's is named.

A tax on top of a price is part of the total, and cut on the same cumulative sum as the lines, right after its line. One that a
price includes is part of its line's amount already; it is named, cut by itself, and moves no total. Source: providers.md,
section 3.1 (amounts, multiples); Stripe's `tax_amounts` of invoice lines, which exclude tax rates and automatic tax.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from billing_adapters.minor_units import to_provider
from metering.numbers import exact_sum, trimmed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from billing_adapters.minor_units import MinorUnit
    from rating.invoice import Invoice, InvoiceLine
    from rating.tax import TaxedInvoice

# (name, percent in plain digits, is it included in the price)
Rate = tuple[str, str, bool]


@dataclass(frozen=True, slots=True)
class Row:
    """One line on its way to Stripe: its amount, what stands on it, and per rate (what is taxed, the tax). In the currency."""

    amount: Decimal
    shown: dict[str, Any]
    taxes: tuple[tuple[Rate, Decimal, Decimal], ...] = ()


def taxed_rows(
    invoice: Invoice, taxed: TaxedInvoice | None, show: Callable[[InvoiceLine], dict[str, Any]]
) -> list[Row]:
    """Return a row per line of an invoice, with its taxes."""
    if taxed is None:
        return [Row(line.amount, show(line)) for line in invoice.lines]
    made = []
    for line, of_line in zip(invoice.lines, taxed.lines, strict=True):
        # What is on paper is the gross where prices include tax, and else the net.
        is_included = of_line.net != line.amount
        taxes = tuple(
            ((rate.name, trimmed(rate.percent), is_included), of_line.net, tax) for rate, tax in of_line.taxes
        )
        made.append(Row(line.amount, show(line), taxes))
    return made


def folded(rows: Sequence[Row], shown: dict[str, Any]) -> Row:
    """Return many rows as one: amounts, and per rate what is taxed and the tax, added up."""
    sums: dict[Rate, tuple[list[Decimal], list[Decimal]]] = {}
    for row in rows:
        for rate, taxable, tax in row.taxes:
            bases, amounts = sums.setdefault(rate, ([], []))
            bases.append(taxable)
            amounts.append(tax)
    taxes = tuple((rate, exact_sum(bases), exact_sum(amounts)) for rate, (bases, amounts) in sums.items())
    return Row(exact_sum([row.amount for row in rows]), shown, taxes)


def cut(rows: Sequence[Row], carried: Decimal, unit: MinorUnit) -> tuple[list[dict[str, Any]], int, int]:
    """Return the lines with whole units, cut on the cumulative sum from what was carried; the total; and all taxes in it.

    All in the provider's units. The total is lines and taxes on top; included taxes are in the third figure alone.
    """
    cumulative, sent, all_taxes, lines = carried, 0, 0, []
    for row in rows:
        cumulative = exact_sum([cumulative, row.amount])
        now, _ = to_provider(cumulative, sent, unit)
        sent += now
        told = []
        for (name, percent, is_included), taxable, tax in row.taxes:
            if is_included:
                units, _ = to_provider(tax, 0, unit)
            else:
                cumulative = exact_sum([cumulative, tax])
                units, _ = to_provider(cumulative, sent, unit)
                sent += units
            all_taxes += units
            base, _ = to_provider(taxable, 0, unit)
            told.append({"amount": units, "inclusive": is_included, "name": name, "percent": percent, "taxable": base})
        lines.append({**row.shown, "amount": now, **({"taxes": told} if told else {})})
    return lines, sent, all_taxes
