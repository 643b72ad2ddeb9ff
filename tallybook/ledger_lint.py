"""Lint of the general ledger's accounts: which amounts would be posted to none of them.

Enters: a catalog. Leaves: findings, none where no account is declared at all. Refuses nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from billing_adapters.ledger_accounts import LedgerMap
from rating.lint import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from billing_adapters.ledger_accounts import Role
    from rating.plans import Plan
    from tallybook.catalog_entries import Catalog


def find_unmapped(catalog: Catalog) -> Iterator[Finding]:
    """Yield what has no ledger account: prices and minimums without revenue, taxes, and the roles that documents need.

    Each is asked for every seller; one without is enough.
    """
    if not catalog.ledger_accounts:
        return
    ledger = LedgerMap(catalog.ledger_accounts)
    sellers: list[str | None] = [seller.id for seller in catalog.sellers]
    sellers = sellers or [None]
    for plan in catalog.plans:
        yield from _of_plan(plan, ledger, sellers)
    currencies = sorted({plan.currency for plan in catalog.plans})
    for role in _roles_of(catalog):
        if any(_misses(ledger, role, sellers, currency=currency) for currency in currencies):
            message = f"no ledger account has the role {role} for every document; add one without limits"
            yield Finding("ledger_unmapped", message)
    taxes = sorted({tax.name for account in catalog.accounts for tax in account.taxes})
    for tax in taxes:
        if any(_misses(ledger, "tax", sellers, currency=currency, tax=tax) for currency in currencies):
            yield Finding("ledger_unmapped", f"no ledger account is for the tax {tax!r}; add one with the role tax")


def _of_plan(plan: Plan, ledger: LedgerMap, sellers: list[str | None]) -> Iterator[Finding]:
    lines = [(price.id, price.meter) for price in plan.prices] + [(minimum.id, None) for minimum in plan.minimums]
    for line_id, meter in lines:
        of = {"currency": plan.currency, "plan": plan.name, "price": line_id, "meter": meter}
        if _misses(ledger, "revenue", sellers, **of):
            message = f"no ledger account has the role revenue for {line_id!r}; add one for it, or one without limits"
            yield Finding("ledger_unmapped", message, plan=plan.name, version=plan.version, price_id=line_id)


def _misses(ledger: LedgerMap, role: Role, sellers: list[str | None], **of: str | None) -> bool:
    return any(ledger.account_of(role, seller=seller, **of).entry_id is None for seller in sellers)


def _roles_of(catalog: Catalog) -> list[Role]:
    """Return the roles beside revenue and tax that documents of this catalog may need."""
    roles: list[Role] = ["receivables", "unbilled_receivables"]
    if any(price.type == "flat" for plan in catalog.plans for price in plan.prices):
        roles.append("deferred_revenue")
    if catalog.balances:
        roles.append("prepaid_balances")
    if any(balance.paid not in {None, balance.amount} for balance in catalog.balances):
        roles.append("promotions")
    return roles
