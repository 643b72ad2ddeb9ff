"""An invoice with all that paper says beside its lines: who sells, who pays, taxes, when it is due, what it corrects.

Enters: invoices of the books, and the catalog that each of them pins. Leaves: papers, which files and letters repeat.
Refuses: to change an amount of an invoice. Taxes are worked out on what was sold, before prepaid balances pay.

Pure: the same invoice under the same catalog revision is the same paper, always. Days are UTC, except those of lines,
which each plan reads in its own time zone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from metering.periods import zone
from rating.rounding import exact_sum
from rating.spans import plan_key
from rating.tax import TaxRate, tax_invoice

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date, datetime
    from decimal import Decimal

    from rating.invoice import Invoice, InvoiceLine
    from rating.parties import AccountTax, Seller
    from rating.plans import Account, Plan
    from rating.tax import TaxedInvoice
    from rating.voids import Voided

DOCUMENT_TYPES = {"invoice": "invoice", "credit_note": "credit note", "supplementary_invoice": "supplementary invoice"}


class AccountTaxes:
    """The tax calculator of one account: the rates that its entry in the catalog names. See `rating.tax`."""

    def __init__(self, taxes: Sequence[AccountTax]) -> None:
        self._taxes = [(TaxRate(tax.name, tax.percent), frozenset(tax.codes)) for tax in taxes]

    def rates_of(self, invoice: Invoice, tax_codes: Sequence[str | None]) -> Sequence[Sequence[TaxRate]]:
        """Return the taxes of each line, in the order in which the account lists them."""
        return [[rate for rate, codes in self._taxes if not codes or code in codes] for code in tax_codes]


@dataclass(frozen=True, slots=True)
class Books:
    """What other documents of the books say of an invoice.

    `corrects`: by invoice, the numbers of the documents that billed the same subscription and billing period before.
    `billed_before`: by line of a correction, the document that billed the same before, the last one; none: nobody did.
    `paid`: by (invoice, position of a burn, from 1), the part of the burn that had been paid for; the rest was a gift.
    `voids`: by invoice, its void. `paid_back`: as `paid`, the part that a void gave back.
    """

    corrects: Mapping[str, Sequence[str]]
    paid: Mapping[tuple[str, int], Decimal]
    voids: Mapping[str, Voided] = field(default_factory=dict)
    paid_back: Mapping[tuple[str, int], Decimal] = field(default_factory=dict)
    billed_before: Mapping[str, BilledBefore] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BilledBefore:
    """The document that billed what a correction changes: its number, and the usage events that it was rated from."""

    number: str
    snapshot_id: str


@dataclass(frozen=True, slots=True)
class Paper:
    """One invoice as it is put on paper. Amounts are in the invoice's currency, rounded to its minor unit.

    `burns_paid`: per burn of `invoice.prepaid`, the part that had been paid for. `plans` are those of the catalog
    revision that the invoice pins, by plan key. `voided`: its void, with the parts of burns that it gave back.
    `billed_before`: of its corrections, by line, who billed the same before.
    """

    invoice: Invoice
    account: Account
    seller: Seller | None
    taxed: TaxedInvoice
    corrects: tuple[str, ...]
    burns_paid: tuple[Decimal, ...]
    plans: Mapping[str, Plan]
    voided: Voided | None = None
    burns_paid_back: tuple[Decimal, ...] = ()
    billed_before: Mapping[str, BilledBefore] = field(default_factory=dict)

    @property
    def document_type(self) -> str:
        """Return invoice, credit note, supplementary invoice, or pro forma for a draft, which demands nothing."""
        return "pro forma" if self.invoice.status == "draft" else DOCUMENT_TYPES[self.invoice.document_type]

    @property
    def issue_date(self) -> date:
        return self.invoice.issued_at.date()

    @property
    def due_date(self) -> date | None:
        """Return the day by which it is to be paid; None for what is not to be paid, and where nobody said."""
        days = self.account.payment_days
        if days is None and self.seller is not None:
            days = self.seller.payment_days
        is_owed = self.invoice.status == "final" and self.payable > 0
        return self.issue_date + timedelta(days=days) if is_owed and days is not None else None

    @property
    def net(self) -> Decimal:
        return self.taxed.net

    @property
    def tax(self) -> Decimal:
        return self.taxed.tax

    @property
    def gross(self) -> Decimal:
        return self.taxed.gross

    @property
    def prepaid(self) -> Decimal:
        """Return what prepaid balances paid of it, or, negative, what it gave back to them."""
        return self.invoice.total - self.invoice.amount_due

    @property
    def payable(self) -> Decimal:
        """Return what is left to pay: the gross less what prepaid balances paid. Negative: what is owed to the account."""
        return self.gross - self.prepaid

    @property
    def sums_by_tax(self) -> list[tuple[str, Decimal, Decimal, Decimal]]:
        """Return (name, percent, net that it is of, tax), one row per tax, in the order of the lines."""
        parts: dict[tuple[str, Decimal], list[tuple[Decimal, Decimal]]] = {}
        for line in self.taxed.lines:
            for rate, tax in line.taxes:
                parts.setdefault((rate.name, rate.percent), []).append((line.net, tax))
        return [
            (name, percent, exact_sum([net for net, _ in rows]), exact_sum([tax for _, tax in rows]))
            for (name, percent), rows in parts.items()
        ]

    def day_of(self, line: InvoiceLine, instant: datetime) -> date:
        """Return the day of an instant in the time zone of the line's plan."""
        plan = self.plans[plan_key(line.plan, line.plan_version)]
        return instant.astimezone(zone(plan.billing_period.timezone)).date()


def as_issued(paper: Paper) -> Paper:
    """Return a paper as it was when it was issued: without the void that came later."""
    if paper.voided is None:
        return paper
    return replace(paper, voided=None, invoice=replace(paper.invoice, status="final"))


def papers_of(
    invoices: Iterable[Invoice],
    *,
    accounts: Mapping[str, Account],
    sellers: Sequence[Seller],
    plans: Mapping[str, Plan],
    books: Books,
) -> list[Paper]:
    """Return the papers of invoices that pin one catalog revision, in their order.

    The seller is the one that the account names, or the only one that there is. Without any, paper names none.
    """
    by_id = {seller.id: seller for seller in sellers}
    only = sellers[0] if len(sellers) == 1 else None
    made = []
    for invoice in invoices:
        account = accounts[invoice.account_id]
        burns = [((invoice.invoice_id, at), one.amount) for at, one in enumerate(invoice.prepaid, start=1)]
        made.append(
            Paper(
                invoice=invoice,
                account=account,
                seller=by_id[account.seller] if account.seller is not None else only,
                taxed=tax_invoice(invoice, plans, AccountTaxes(account.taxes)),
                corrects=tuple(books.corrects.get(invoice.invoice_id, ())),
                burns_paid=tuple(books.paid.get(key, amount) for key, amount in burns),
                plans=plans,
                voided=books.voids.get(invoice.invoice_id),
                burns_paid_back=tuple(books.paid_back.get(key, amount) for key, amount in burns),
                billed_before={
                    line.line_id: books.billed_before[line.line_id]
                    for line in invoice.lines
                    if line.line_id in books.billed_before
                },
            )
        )
    return made
