"""Credit grants at Stripe: prepaid balances of those whose prices live at Stripe. Source: reference/providers.md, section 3.3.

Enters: a `rating.balances.Balance`. Leaves: one credit grant of its amount, for metered prices. Refuses: more than Stripe can
say of it: its prices (Stripe names its own), priorities finer than 0 to 100.

Stripe applies grants to its own metered prices only, never to the lines that we send: whoever is invoiced by us needs none of
this, because prepaid balances are burned in our books. Never use both for one account.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import orjson
import stripe

from billing_adapters.adapter import Answer, Capabilities, Found, Intent, Numbers, ReadBack
from billing_adapters.minor_units import to_provider, unit_of
from billing_adapters.outcomes import Outcome
from billing_adapters.stripe_adapter.access import access_of
from billing_adapters.stripe_adapter.answers import answer_of
from billing_adapters.stripe_adapter.calls import Calls, metadata_of
from billing_adapters.stripe_adapter.customers import customer_of, find_customer
from billing_adapters.stripe_adapter.documents import StripeSettings
from billing_adapters.stripe_adapter.invoices import METADATA
from metering.clock import to_us
from metering.numbers import plain
from rating.balances import Balance

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from billing_adapters.adapter import Desk, Item

# Ours go from 0 to 1000, Stripe's to 100; the order stays, as far as Stripe can tell them apart.
PRIORITY_STEP = 10
CAPABILITIES = Capabilities(
    name="stripe_credits",
    kinds=("credit_grant",),
    grain="line",
    natural_key=("balance_id",),
    numbers=Numbers("integer"),
    zero="refused",
    repeat_same="safe",
    repeat_other="refused",
    read_back=ReadBack(can_prove_absence=True),
    downwards=("void while unused", "expire"),
    upwards=("another grant",),
    key_lives=timedelta(hours=24),
    calls_per_s=20,
)


@dataclass(frozen=True, slots=True)
class StripeCreditAdapter:
    """Delivers prepaid balances as credit grants. `client` must be made with `max_network_retries=0`."""

    client: stripe.StripeClient
    settings: StripeSettings = field(default_factory=StripeSettings)

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    def prepare(self, source: object) -> Sequence[Intent]:
        """Return the grant of a `Balance`. Its end may be changed later in the catalog; what was granted may not."""
        if not isinstance(source, Balance):
            return []
        unit = unit_of(source.currency, "stripe", self.settings.units)
        value, carried = to_provider(source.amount, 0, unit)
        body = {
            "account_id": source.account,
            "category": "promotional" if source.paid == 0 else "paid",
            "currency": source.currency.lower(),
            "effective_at": to_us(source.starts_at) // 1_000_000,
            "expires_at": None if source.expires is None else to_us(source.ends_at) // 1_000_000,
            "name": source.description or source.id,
            "priority": source.priority // PRIORITY_STEP,
            "value": value,
        }
        return [
            Intent(
                kind="credit_grant",
                natural_key=source.id,
                payload=orjson.dumps(body, option=orjson.OPT_SORT_KEYS).decode(),
                account_id=source.account,
                subject=source.id,
                content=f"{source.account} {plain(source.amount)} {source.currency}",
                lane=source.account,
                amount=source.amount,
                currency=source.currency,
                refusal=f"Stripe cannot grant the last {plain(carried)} {source.currency} of it" if carried else None,
            )
        ]

    def send(self, items: Sequence[Item], desk: Desk) -> Sequence[Answer]:
        return [self._send(item, desk) for item in items]

    def read_back(self, items: Sequence[Item], desk: Desk) -> Sequence[Found]:
        return [self._look(item, desk) for item in items]

    def _send(self, item: Item, desk: Desk) -> Answer:
        calls = Calls(self.client, item, desk)
        body = orjson.loads(item.payload)
        try:
            customer = customer_of(calls, body["account_id"], body["account_id"], self.settings)
            # Looked for each time: the grant is made over the connection of this look.
            there = self._find(calls, customer)
            if there is not None:
                return _judge(body, there)
            params = _params(body, customer, item)
            made = calls.write("grant", calls.client.v1.billing.credit_grants.create, params, in_time=True)
            return Answer(Outcome.ACCEPTED, "granted", made.id)
        except stripe.StripeError as error:
            return answer_of(error)

    def _look(self, item: Item, desk: Desk) -> Found:
        calls = Calls(self.client, item, desk)
        body = orjson.loads(item.payload)
        try:
            customer = find_customer(calls, body["account_id"], self.settings)
            there = None if customer is None else self._find(calls, customer)
        except stripe.StripeError as error:
            return Found("failed", answer_of(error).detail)
        if there is None:
            return Found("absent")
        answer = _judge(body, there)
        is_same = answer.outcome is Outcome.ALREADY_ACCEPTED_SAME
        return Found("same" if is_same else "other", answer.detail, there.id)

    def _find(self, calls: Calls, customer: str) -> Any:
        for one in calls.pages(calls.client.v1.billing.credit_grants.list, customer=customer):
            if metadata_of(one).get(METADATA) == calls.item.delivery_id:
                return one
        return None


def make_credits(settings: Mapping[str, Any]) -> StripeCreditAdapter:
    """Return the adapter of the section [delivery.stripe_credits]; the key is in TALLYBOOK_STRIPE_KEY."""
    access = access_of(CAPABILITIES.name, settings)
    return StripeCreditAdapter(access.client(), StripeSettings(**access.settings))


def _params(body: Mapping[str, Any], customer: str, item: Item) -> dict[str, Any]:
    params: dict[str, Any] = {
        "amount": {"type": "monetary", "monetary": {"currency": body["currency"], "value": body["value"]}},
        "applicability_config": {"scope": {"price_type": "metered"}},
        "category": body["category"],
        "customer": customer,
        "effective_at": body["effective_at"],
        "metadata": {METADATA: item.delivery_id, "tallybook_balance": item.natural_key},
        "name": body["name"],
        "priority": body["priority"],
    }
    if body["expires_at"] is not None:
        params["expires_at"] = body["expires_at"]
    return params


def _judge(body: Mapping[str, Any], there: Any) -> Answer:
    money = there.amount.monetary
    if (money.value, money.currency) != (body["value"], body["currency"]):
        detail = f"Stripe granted {money.value} {money.currency}, ours is {body['value']} {body['currency']}"
        return Answer(Outcome.CONFLICT_OTHER_VALUE, detail, there.id)
    return Answer(Outcome.ALREADY_ACCEPTED_SAME, "granted already", there.id)
