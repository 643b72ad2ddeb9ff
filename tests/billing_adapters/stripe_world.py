"""Stripe as the tests of delivery see it: the fake, the adapter over the real SDK, and what counts there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import stripe

from billing_adapters.adapter import Document, Intent
from billing_adapters.stripe_adapter import StripeAdapter, StripeSettings
from billing_adapters.testing.contract import BEGINNING
from billing_adapters.testing.stripe_fake import StripeFake
from metering.clock import FixedClock
from tests.billing_adapters.invoices import invoice

# Tests tell nobody what machine they run on.
stripe.enable_telemetry = False
SETTINGS = StripeSettings(lines_per_call=2)


class StripeWorld:
    """A world of the contract. `fault` plans failures of the fake's writes."""

    def __init__(
        self, fault: Callable[[str, str], str | None] = lambda _method, _path: None, settings: StripeSettings = SETTINGS
    ) -> None:
        self.clock = FixedClock(BEGINNING)
        self.fake = StripeFake(self.clock, fault=fault)
        self.settings = settings
        self.client = self.fake.client()

    def adapter(self) -> StripeAdapter:
        return StripeAdapter(self.client, self.settings)

    def sources(self) -> Sequence[object]:
        made = [
            invoice(1, "49.00", "0.01", "-0.50", "7.77", "1.00"),
            invoice(2, "1200", "34", currency="JPY"),
            invoice(3, "12345678.90", account="globex"),
        ]
        return [Document(one, account_name=f"{one.account_id} & Söhne") for one in made]

    def fail(self, how: str, times: int = 1) -> None:
        self.fake.fail(how, times)

    def holdings(self) -> dict[str, list[str]]:
        return holdings(self.fake)

    def expected(self, intent: Intent) -> str:
        return expected(intent)


def holdings(fake: StripeFake) -> dict[str, list[str]]:
    """Return what counts at Stripe by our invoice: every invoice that is not a draft, with its lines."""
    found: dict[str, list[str]] = {}
    for one in fake.store.all("invoice"):
        if one["status"] != "draft":
            lines = sum(line["amount"] for line in one["lines"])
            text = f"{one['total']} {one['currency']} in {len(one['lines'])} lines of {lines}"
            found.setdefault(one["metadata"]["tallybook_invoice"], []).append(text)
    return found


def expected(intent: Intent) -> str:
    import orjson

    body: dict[str, Any] = orjson.loads(intent.payload)
    return f"{body['total']} {body['currency']} in {len(body['lines'])} lines of {body['total']}"
