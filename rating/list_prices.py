"""What units would cost by the catalog alone: under a tenant's last plan, and at list price.

Enters: the terms of sale, list prices that a workspace states. Leaves: amounts, exact and unrounded, each with its currency.
Refuses: prices that need more than a quantity to say an amount (attributes, single usage events, other prices).

Rated by `rate_quantities`, the SQL that rates invoices.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rating.rate import rate_quantities
from rating.spans import plan_key
from rating.terms import plans_over_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from rating.plans import Plan
    from rating.terms import Terms

# A quantity is all that these need.
PLAIN_TYPES = frozenset({"unit", "graduated", "volume", "package", "stairstep", "graduated_percentage"})


@dataclass(frozen=True, slots=True)
class Worth:
    """What a quantity costs: most likely, and between which amounts plans differ. Exact, in one currency."""

    currency: str
    amount: Decimal
    low: Decimal
    high: Decimal


# A question: under which plan version, of which meter, how many units.
_Asked = tuple[str, int, str, Decimal]


@dataclass(slots=True)
class CatalogPrices:
    """Prices of the catalog, asked for single quantities. `listed` by meter: currency and price of a unit.

    Every method takes all its questions at once: an engine costs more than what it is asked.
    """

    terms: Terms
    listed: Mapping[str, tuple[str, Decimal]] = field(default_factory=dict)

    def under_last_plans(self, asked: Sequence[tuple[str, str, datetime | None, Decimal]]) -> list[Worth | None]:
        """Return what quantities cost on the plan their tenant was on last before an instant (else first after), from zero.

        Each question is (tenant, meter, instant, quantity); None where the plan has no plain price for the meter.
        """
        phases = self._phases({tenant_id for tenant_id, *_ in asked})
        plans = [_last_plan(phases.get(tenant_id, ()), instant) for tenant_id, _, instant, _ in asked]
        wanted = [
            (plan, meter, quantity)
            for plan, (_, meter, _, quantity) in zip(plans, asked, strict=True)
            if plan is not None
        ]
        amounts = _rated(wanted)
        found: list[Worth | None] = []
        for plan, (_, meter, _, quantity) in zip(plans, asked, strict=True):
            amount = None if plan is None else amounts.get((plan.name, plan.version, meter, quantity))
            found.append(None if plan is None or amount is None else Worth(plan.currency, amount, amount, amount))
        return found

    def at_list(self, asked: Sequence[tuple[str | None, str, Decimal]]) -> list[Worth | None]:
        """Return what quantities of meters cost at list price: the workspace's, else that of the plans which sell the meter.

        Each question is (tenant, meter, quantity). Of plans in several currencies those in the one that the tenant pays,
        where any of them sells the meter, else in the one that most of them have; likely is the plan with most subscriptions.
        """
        newest = self._newest()
        amounts = _rated(
            [(plan, meter, quantity) for _, meter, quantity in asked if meter not in self.listed for plan in newest]
        )
        held = Counter(subscription.plan for subscription in self.terms.subscriptions)
        phases = self._phases({tenant_id for tenant_id, *_ in asked if tenant_id})
        paid = {tenant_id: plans[-1][1].currency for tenant_id, plans in phases.items()}
        return [
            self._at_list(meter, quantity, newest, held, amounts, paid.get(tenant_id or ""))
            for tenant_id, meter, quantity in asked
        ]

    def unit_bounds(self, plan: str, version: int, price_id: str, unit_price: Decimal) -> tuple[Decimal, Decimal]:
        """Return the lowest and the highest price of a unit in the tiers of a price; without tiers the one given."""
        found = self.terms.plans.get(plan_key(plan, version))
        tiers = [
            tier.unit_price
            for price in (found.prices if found else ())
            if price.id == price_id
            for tier in getattr(price, "tiers", ())
            if hasattr(tier, "unit_price")
        ]
        return min([*tiers, unit_price]), max([*tiers, unit_price])

    def _at_list(
        self,
        meter: str,
        quantity: Decimal,
        newest: Sequence[Plan],
        held: Counter[str],
        amounts: Mapping[_Asked, Decimal],
        paid: str | None,
    ) -> Worth | None:
        if meter in self.listed:
            currency, unit_price = self.listed[meter]
            amount = quantity * unit_price
            return Worth(currency, amount, amount, amount)
        keys = [(plan, (plan.name, plan.version, meter, quantity)) for plan in newest]
        found = [(plan, amounts[key]) for plan, key in keys if key in amounts]
        if not found:
            return None
        currencies = Counter(plan.currency for plan, _ in found)
        currency = min(currencies, key=lambda one: (one != paid, -currencies[one], one))
        here = [(plan, amount) for plan, amount in found if plan.currency == currency]
        _, likely = min(here, key=lambda one: (-held[one[0].name], one[0].name))
        return Worth(currency, likely, min(amount for _, amount in here), max(amount for _, amount in here))

    def _phases(self, tenants: set[str]) -> dict[str, list[tuple[datetime, Plan]]]:
        found: dict[str, list[tuple[datetime, Plan]]] = {}
        for subscription in self.terms.subscriptions:
            if subscription.tenant in tenants:
                for plan, phase in plans_over_time(self.terms, subscription):
                    found.setdefault(subscription.tenant, []).append((phase.start, plan))
        return {tenant: sorted(phases, key=lambda one: (one[0], one[1].name)) for tenant, phases in found.items()}

    def _newest(self) -> list[Plan]:
        newest: dict[str, Plan] = {}
        for plan in self.terms.plans.values():
            if plan.name not in newest or plan.version > newest[plan.name].version:
                newest[plan.name] = plan
        return [newest[name] for name in sorted(newest)]


def _last_plan(phases: Sequence[tuple[datetime, Plan]], instant: datetime | None) -> Plan | None:
    before = [plan for start, plan in phases if instant is not None and start <= instant]
    return before[-1] if before else phases[0][1] if phases else None


def _rated(wanted: Sequence[tuple[Plan, str, Decimal]]) -> dict[_Asked, Decimal]:
    """Return the exact amount of every question that has one. Those of one currency and one way of reading share an engine."""
    groups: dict[tuple[str, str], dict[_Asked, tuple[Plan, Any]]] = {}
    for plan, meter, quantity in wanted:
        price = _plain_price(plan, meter)
        if price is not None:
            group = groups.setdefault((plan.currency, str(sorted(plan.switches.items()))), {})
            group[plan.name, plan.version, meter, quantity] = (plan, price)
    amounts: dict[_Asked, Decimal] = {}
    for (currency, _), questions in sorted(groups.items()):
        switches = next(iter(questions.values()))[0].switches
        prices = [price for _, price in questions.values()]
        rated = rate_quantities(prices, [key[3] for key in questions], currency=currency, switches=switches)
        amounts |= {key: one.exact_amount for key, one in zip(questions, rated, strict=True)}
    return amounts


def _plain_price(plan: Plan, meter: str) -> Any | None:
    """Return the one price of a meter that says an amount for a quantity alone; None where there is none, or several."""
    prices: list[Any] = [price for price in plan.prices if price.type in PLAIN_TYPES and price.meters_read == (meter,)]
    is_plain = plan.dialect == "strict" and len(prices) == 1 and not prices[0].where and not prices[0].by
    return prices[0] if is_plain else None
