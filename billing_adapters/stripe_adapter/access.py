"""The SDK's client of a section of the settings: one key, one address, no retries of the SDK's own.

Enters: the section [delivery.NAME], and the secret key from the environment. Leaves: the key, what makes clients, and the rest of
the section. Refuses: keys in files.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import stripe

from billing_adapters.errors import AdapterMisconfigured
from billing_adapters.minor_units import MinorUnit
from billing_adapters.stripe_adapter.one_connection import OneConnection

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY_VARIABLE = "TALLYBOOK_STRIPE_KEY"


@dataclass(frozen=True, slots=True)
class StripeAccess:
    """How Stripe is reached. `settings` is what the section says besides; its units are MinorUnit, by currency."""

    api_key: str
    options: Mapping[str, Any]
    settings: dict[str, Any]

    def client(self, token: str | None = None) -> stripe.StripeClient:
        """Return a client of our key, or of a token that Stripe gave for it."""
        return stripe.StripeClient(token or self.api_key, http_client=OneConnection(), **self.options)


def access_of(adapter: str, settings: Mapping[str, Any]) -> StripeAccess:
    """Return how an adapter reaches Stripe; `address` points it at another server. Raises AdapterMisconfigured without a key."""
    key = os.environ.get(KEY_VARIABLE)
    if not key:
        raise AdapterMisconfigured(f"put the secret key of Stripe into {KEY_VARIABLE}", adapter=adapter)
    chosen = dict(settings)
    address = chosen.pop("address", None)
    options: dict[str, Any] = {"max_network_retries": 0}
    if address is not None:
        options["base_addresses"] = {"api": address, "meter_events": address}
    if "units" in chosen:
        chosen["units"] = {currency: MinorUnit(**unit) for currency, unit in chosen["units"].items()}
    return StripeAccess(key, options, chosen)
