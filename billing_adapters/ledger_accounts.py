"""Which account of the general ledger an amount belongs to, as the catalog says.

Enters: entries of `ledger_accounts:` in the catalog files. Leaves: for a role, and what the amount is of, an account number.
Refuses: to guess. What no entry is for goes to an account that is called by its role, so that it can be seen and lint can
say so; debits and credits agree either way.

Of the entries of a role that match, the one that says most wins; the first by id where two say as much. The mapping is an
instruction to the bookkeeper and no term of sale: it may change at any time, and the mapping of today holds for all that is
published today.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from pydantic import Field

from metering.catalog import CatalogModel, MeterName, Text, name_of
from rating.catalog_times import Currency
from rating.parties import SellerId
from rating.plans import PlanName
from rating.prices import PriceId

if TYPE_CHECKING:
    from collections.abc import Iterable

Role = Literal[
    "receivables", "unbilled_receivables", "revenue", "tax", "deferred_revenue", "prepaid_balances", "promotions", "cash",
    "bad_debt",
]  # fmt: skip
ROLES: tuple[Role, ...] = get_args(Role)
# What an entry may be limited to, beside its role.
LIMITS = ("seller", "currency", "plan", "price", "meter", "tax")


class LedgerAccount(CatalogModel):
    """One account of the general ledger, and what is posted to it."""

    id: Annotated[str, *name_of("ledger account")] = Field(description="the stable identity of the entry")
    role: Role = Field(description="what is posted to it, see the table of roles")
    number: Text = Field(description="the account in the general ledger, such as 4000")
    department: Text | None = Field(default=None, description="the cost centre that is posted with it")
    seller: SellerId | None = Field(default=None, description="only documents of this seller")
    currency: Currency | None = Field(default=None, description="only amounts in this currency")
    plan: PlanName | None = Field(default=None, description="only lines of this plan, all its versions")
    price: PriceId | None = Field(default=None, description="only lines of this price")
    meter: MeterName | None = Field(default=None, description="only lines that count this meter")
    tax: Text | None = Field(default=None, description="only taxes of this name; for the role tax")


@dataclass(frozen=True, slots=True)
class Posted:
    """Where an amount goes: account number and department. `entry_id` is None where no entry of the catalog is for it."""

    number: str
    department: str | None
    entry_id: str | None


class LedgerMap:
    """The accounts of a catalog, to be asked for one amount after the other. Equal questions are answered once."""

    def __init__(self, accounts: Iterable[LedgerAccount] = ()) -> None:
        self.accounts = tuple(sorted(accounts, key=lambda one: one.id))
        self._found: dict[tuple[str | None, ...], Posted] = {}

    def account_of(self, role: Role, **of: str | None) -> Posted:
        """Return the account for a role and what the amount is of: seller, currency, plan, price, meter, tax."""
        key = (role, *(of.get(name) for name in LIMITS))
        if key not in self._found:
            self._found[key] = self._find(role, of)
        return self._found[key]

    def _find(self, role: Role, of: dict[str, str | None]) -> Posted:
        best: LedgerAccount | None = None
        most = -1
        for account in self.accounts:
            limits = {name: value for name in LIMITS if (value := getattr(account, name)) is not None}
            matches = account.role == role and all(of.get(name) == value for name, value in limits.items())
            if matches and len(limits) > most:
                best, most = account, len(limits)
        return Posted(role, None, None) if best is None else Posted(best.number, best.department, best.id)
