"""List prices: of plans in several currencies, the one that the tenant pays counts before the one that most plans have."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from rating.list_prices import CatalogPrices, Worth
from tests.billing_adapters.world import terms_of


def plan(name: str, currency: str, **sold: str) -> dict[str, Any]:
    prices = [{"id": m, "type": "unit", "meter": m, "unit_price": unit_price} for m, unit_price in sold.items()]
    return {"name": name, "version": "1", "currency": currency, "prices": prices}


TERMS = terms_of(
    {
        "meters": [{"name": "calls"}, {"name": "clicks"}],
        "plans": [
            plan("north", "EUR", calls="0.03", clicks="0.05"),
            plan("south", "EUR", calls="0.02"),
            plan("west", "USD", calls="0.04"),
        ],
        "accounts": [{"id": "payer", "name": "Payer", "tenants": ["acme"]}],
        "subscriptions": [
            {"id": "sub-acme", "tenant": "acme", "plan": "west", "version": "1", "from": "2026-01-01"},
        ],
    }
)


def test_a_tenant_is_asked_in_the_currency_that_it_pays() -> None:
    asked = [("acme", "calls", Decimal(100)), (None, "calls", Decimal(100)), ("acme", "clicks", Decimal(100))]
    one = Decimal(1)
    assert CatalogPrices(TERMS).at_list(asked) == [
        Worth("USD", 4 * one, 4 * one, 4 * one),
        Worth("EUR", 3 * one, 2 * one, 3 * one),
        # No plan in dollars sells clicks.
        Worth("EUR", 5 * one, 5 * one, 5 * one),
    ]


@pytest.mark.parametrize(
    "terms",
    [{"price_per": "day", "bucket_commitment": {"amount": "50"}}, {"included_from": "calls"}],
    ids=["promised per bucket", "included by grants"],
)
def test_what_a_unit_costs_beyond_promises_and_grants_is_its_list_price(terms: dict[str, Any]) -> None:
    price = {"id": "calls", "type": "unit", "meter": "calls", "unit_price": "0.04", **terms}
    quota = {"feature": "calls", "type": "metered", "meter": "calls", "quota": "1000"}
    sold = {"name": "west", "version": "1", "currency": "USD", "prices": [price], "entitlements": [quota]}
    catalog = {"meters": [{"name": "calls"}], "plans": [sold], "accounts": [], "subscriptions": []}
    four = Decimal(4)
    assert CatalogPrices(terms_of(catalog)).at_list([("acme", "calls", Decimal(100))]) == [
        Worth("USD", four, four, four)
    ]
