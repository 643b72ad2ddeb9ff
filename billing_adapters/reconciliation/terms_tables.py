"""The terms of sale as tables that controls read: what the catalog says of everybody, whether rated now or not.

Enters: the terms. Leaves: the tables plan_term, plan_tier, subscription_term, account_term, account_tenant, discount_term,
override_term and balance_term of the engine. Refuses: to judge. Times are instants; plain dates are midnights in the plan's
time zone.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from metering.engine import read_sql
from rating.plans import instant_of
from rating.price_tables import tier_rows
from rating.tables import load_table
from rating.terms import NEVER, plans_over_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    import duckdb

    from metering.periods import Period
    from rating.adjust import Discount
    from rating.balances import Balance
    from rating.plans import Account, Plan, Subscription
    from rating.terms import Terms

_TIERED = frozenset({"unit", "graduated", "volume"})
_PLAN = {"plan": "text", "plan_version": "int", "currency": "text", "late_usage_days": "int"}
_TIER = {
    "plan": "text", "plan_version": "int", "price_id": "text", "tier": "int", "lower_bound": "quantity",
    "upper_bound": "quantity", "unit_price": "price", "flat_amount": "price",
}  # fmt: skip
_SUBSCRIPTION = {
    "subscription_id": "text", "tenant_id": "text", "account_id": "text", "plan": "text", "plan_version": "int",
    "starts_at": "instant", "ends_at": "instant", "has_overrides": "bool",
}  # fmt: skip
_ACCOUNT = {
    "account_id": "text", "currency": "text", "vat_id": "text", "email": "text", "address": "text", "country": "text",
    "tax_percent": "ratio", "tax_note": "text",
}  # fmt: skip
_DISCOUNT = {
    "subscription_id": "text", "discount_id": "text", "begins_at": "instant", "ends_at": "instant", "periods": "int",
    "percent": "ratio", "amount": "exact", "currency": "text", "approved_by": "text",
}  # fmt: skip
_OVERRIDE = {"subscription_id": "text", "price_id": "text", "approved_by": "text"}
_BALANCE = {
    "balance_id": "text", "account_id": "text", "currency": "text", "amount": "exact", "starts_at": "instant",
    "ends_at": "instant", "prices": "text",
}  # fmt: skip


def load_terms_tables(engine: duckdb.DuckDBPyConnection, terms: Terms) -> None:
    """Make the tables that the module's head lists. An open end is null."""
    plans = [plan for _, plan in sorted(terms.plans.items())]
    rows = [(plan.name, plan.version, plan.currency, plan.late_usage_days) for plan in plans]
    load_table(engine, "plan_term", _PLAN, rows)
    load_table(engine, "plan_tier", _TIER, [row for plan in plans for row in _tiers(plan)])
    payers = terms.payer_by_tenant()
    phases = [(one, plan, phase) for one in terms.subscriptions for plan, phase in plans_over_time(terms, one)]
    load_table(
        engine,
        "subscription_term",
        _SUBSCRIPTION,
        [
            (one.id, one.tenant, one.account or payers.get(one.tenant), plan.name, plan.version, phase.start,
             None if phase.end >= NEVER else phase.end, bool(one.overrides))
            for one, plan, phase in phases
        ],
    )  # fmt: skip
    accounts = sorted(terms.accounts.values(), key=lambda one: one.id)
    load_table(engine, "account_term", _ACCOUNT, [_account_row(account) for account in accounts])
    load_table(engine, "account_tenant", {"tenant_id": "text", "account_id": "text"}, sorted(payers.items()))
    discounts = {
        row for one, plan, phase in phases for row in _discounts(terms, one, plan, phase, payers.get(one.tenant))
    }
    load_table(engine, "discount_term", _DISCOUNT, sorted(discounts, key=str))
    overrides = [
        (one.id, price_id, fields.get("approved_by"))
        for one in terms.subscriptions
        for price_id, fields in sorted(one.overrides.items())
    ]
    load_table(engine, "override_term", _OVERRIDE, overrides)
    load_table(engine, "balance_term_row", _BALANCE, [row for one in terms.balances for row in _balance_rows(one)])
    engine.execute(read_sql("billing_adapters.reconciliation", "balance_term"))


def _tiers(plan: Plan) -> Iterator[tuple[object, ...]]:
    for price in plan.prices:
        if price.type in _TIERED:
            for row in tier_rows("", price, plan):
                _, price_id, tier, lower, upper, unit_price, flat_amount, *_ = row
                yield plan.name, plan.version, price_id, tier, lower, upper, unit_price, flat_amount


def _account_row(account: Account) -> tuple[object, ...]:
    address = account.address
    where = None
    if address is not None and address.lines:
        where = ", ".join([*address.lines, address.postal_code or "", address.city or ""])
    percent = max((tax.percent for tax in account.taxes), default=Decimal(0))
    country = None if address is None else address.country
    return account.id, account.currency, account.vat_id, account.email, where, country, percent, account.tax_note


def _discounts(
    terms: Terms, one: Subscription, plan: Plan, phase: Period, payer: str | None
) -> Iterator[tuple[object, ...]]:
    """Yield every discount that may lower a subscription: its own, those of its plan and of who pays."""
    account = terms.accounts.get(one.account or payer or "")
    timezone = plan.billing_period.timezone
    offered: list[Discount] = [*one.discounts, *plan.discounts]
    offered += [
        discount
        for discount in (account.discounts if account else ())
        if not discount.plans or plan.name in discount.plans
    ]
    for discount in offered:
        begins = (
            phase.start if discount.starts_at is None else max(phase.start, instant_of(discount.starts_at, timezone))
        )
        ends = None if discount.ends_at is None else instant_of(discount.ends_at, timezone)
        yield (
            one.id, discount.id, begins, ends, discount.periods, discount.percent, discount.amount,
            discount.currency or plan.currency, discount.approved_by,
        )  # fmt: skip


def _balance_rows(balance: Balance) -> Iterator[tuple[object, ...]]:
    ends = None if balance.expires is None else balance.ends_at
    for price_id in balance.prices or (None,):
        yield (
            balance.id, balance.account, balance.currency, balance.amount, balance.starts_at, ends, price_id,
        )  # fmt: skip
