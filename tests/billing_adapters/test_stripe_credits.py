"""Prepaid balances as credit grants at Stripe: the contract, and what stands on a grant."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import orjson
import pytest

from billing_adapters.adapter import Intent
from billing_adapters.deliver import Deliverer
from billing_adapters.deliveries import list_deliveries
from billing_adapters.stripe_adapter.credit_grants import StripeCreditAdapter, make_credits
from billing_adapters.testing.contract import BEGINNING, AdapterContract
from billing_adapters.testing.stripe_fake import StripeFake
from metering.clock import FixedClock
from rating.balances import Balance
from tests.billing_adapters import stripe_world  # noqa: F401 (it turns the SDK's telemetry off)


def balance(identity: str, amount: str, currency: str = "USD", **more: Any) -> Balance:
    return Balance.model_validate(
        {"id": identity, "account": "acme", "currency": currency, "amount": amount, "effective": "2026-11-01", **more}
    )


class CreditWorld:
    def __init__(self) -> None:
        self.clock = FixedClock(BEGINNING)
        self.fake = StripeFake(self.clock)

    def adapter(self) -> StripeCreditAdapter:
        return StripeCreditAdapter(self.fake.client())

    def sources(self) -> Sequence[object]:
        return [balance("b1", "50.00"), balance("b2", "5000", "JPY"), balance("b3", "1.00", account="globex")]

    def fail(self, how: str, times: int = 1) -> None:
        self.fake.fail(how, times)

    def holdings(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for one in self.fake.store.all("billing.credit_grant"):
            money = one["amount"]["monetary"]
            found.setdefault(one["metadata"]["tallybook_balance"], []).append(f"{money['value']} {money['currency']}")
        return found

    def expected(self, intent: Intent) -> str:
        return {"b1": "5000 usd", "b2": "5000 jpy", "b3": "100 usd"}[intent.natural_key]


class TestCreditGrants(AdapterContract):
    def make_world(self) -> CreditWorld:
        return CreditWorld()


def test_what_stands_on_a_grant() -> None:
    world, engine = CreditWorld(), AdapterContract().open_books()
    adapter = world.adapter()
    given = balance("gift", "10.00", paid="0", priority=255, expires="2027-01-01", description="Welcome")
    deliverer = Deliverer(engine, adapter, clock=world.clock, wait=lambda s: world.clock.advance(timedelta(seconds=s)))
    deliverer.outbox.enqueue([*adapter.prepare(given), *adapter.prepare(balance("odd", "1.234", "KWD"))])
    deliverer.run()
    (grant,) = world.fake.store.all("billing.credit_grant")
    assert (grant["category"], grant["priority"], grant["name"]) == ("promotional", 25, "Welcome")
    assert (grant["effective_at"], grant["expires_at"]) == (1793491200, 1798761600)
    with engine.connect() as connection:
        (parked,) = list_deliveries(connection, states=["parked"])
    assert "cannot grant the last 0.004 KWD" in parked.reason


@pytest.mark.parametrize("change", [{"expires": "2027-06-01"}, {"description": "another sentence"}])
def test_a_grant_is_what_was_granted(change: dict[str, str]) -> None:
    adapter = CreditWorld().adapter()
    (before,), (after,) = (adapter.prepare(balance("b1", "50.00", **more)) for more in ({}, change))
    assert before.delivery_id("stripe_credits") == after.delivery_id("stripe_credits")


def test_units_of_the_settings_are_those_of_the_grants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYBOOK_STRIPE_KEY", "sk_test_none")
    adapter = make_credits({"units": {"USD": {"digits": 3}}})
    [intent] = adapter.prepare(balance("b1", "12.5"))
    assert orjson.loads(intent.payload)["value"] == 12_500
