"""Who sells and who pays, as paper names them: addresses, tax numbers, bank details, terms of payment.

Enters: texts of the catalog files. Leaves: frozen models.
Refuses: to know a tax. Which rate applies to whom is the operator's to know; here it is only written down.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from metering.catalog import CatalogModel, Days, Percent, Text, name_of, unique

SellerId = Annotated[str, *name_of("seller")]
CountryCode = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]


class Address(CatalogModel):
    """Where a letter would go."""

    lines: tuple[Text, ...] = Field(default=(), description="street, building, department: one line of paper each")
    postal_code: Text | None = Field(default=None, description="printed before the city")
    city: Text | None = Field(default=None, description="the town")
    region: Text | None = Field(default=None, description="state or province, where addresses need one")
    country: CountryCode | None = Field(default=None, description="two capital letters of ISO 3166, such as DE")


class Bank(CatalogModel):
    """Where a transfer goes."""

    name: Text | None = Field(default=None, description="the bank")
    iban: Text | None = Field(default=None, description="the account's international number")
    bic: Text | None = Field(default=None, description="the bank's code")


class Seller(CatalogModel):
    """The legal person in whose name invoices are issued."""

    id: SellerId = Field(description="the stable identity of the seller; finance files call it the entity")
    name: Text = Field(description="the legal name on the invoice")
    address: Address = Field(default_factory=Address, description="the registered address")
    vat_id: Text | None = Field(default=None, description="the number under which it pays tax")
    registration: Text | None = Field(default=None, description="commercial register and number")
    email: Text | None = Field(default=None, description="whom to ask about an invoice")
    bank: Bank | None = Field(default=None, description="where to pay")
    payment_days: Days | None = Field(default=None, description="an invoice is due so many days after its issue")
    footer: Text | None = Field(default=None, description="a sentence at the foot of every invoice")


class AccountTax(CatalogModel):
    """One tax that is added to (or, where prices are inclusive, found in) the lines of an account."""

    name: Text = Field(description="what it is called on paper, such as VAT")
    percent: Percent = Field(description="percent of the net, such as 19 or 0.5")
    codes: Annotated[tuple[Text, ...], AfterValidator(unique)] = Field(
        default=(), description="only lines of prices with one of these tax codes; none: all lines"
    )
