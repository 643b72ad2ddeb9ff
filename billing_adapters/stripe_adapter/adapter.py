"""The Stripe adapter: one client of the real SDK, and what each kind of item does with it.

Enters: settings. Leaves: an adapter. Refuses: to judge what an error of Stripe means (answers) or to reach Stripe (access).
Source: reference/providers.md, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import stripe

from billing_adapters.adapter import Answer, Capabilities, Document, Found, Listing, Numbers, ReadBack
from billing_adapters.stripe_adapter.access import access_of
from billing_adapters.stripe_adapter.answers import answer_of
from billing_adapters.stripe_adapter.calls import Calls
from billing_adapters.stripe_adapter.documents import StripeSettings, intents_of
from billing_adapters.stripe_adapter.invoices import look_for_invoice, send_invoice
from billing_adapters.stripe_adapter.listing import held_at_stripe
from billing_adapters.stripe_adapter.lowering import look_for_credit_note, send_credit_note
from billing_adapters.stripe_adapter.voids import look_for_void, send_void

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from billing_adapters.adapter import Desk, Intent, Item
    from billing_adapters.provider_list import Asked, ProviderList

CAPABILITIES = Capabilities(
    name="stripe",
    kinds=("invoice", "credit_note", "void"),
    grain="invoice",
    natural_key=("invoice_id",),
    numbers=Numbers("integer"),
    zero="sent",
    repeat_same="safe",
    repeat_other="refused",
    # Lists are exact at once; `search` is not, and decides nothing.
    read_back=ReadBack(can_prove_absence=True),
    downwards=("credit note", "void"),
    upwards=("supplementary invoice",),
    key_lives=timedelta(hours=24),
    calls_per_s=20,
    listing=Listing(("documents", "lines", "payments")),
)


@dataclass(frozen=True, slots=True)
class StripeAdapter:
    """Delivers invoices, credit notes and voids. `client`: of `max_network_retries=0` and `http_client=OneConnection()`."""

    client: stripe.StripeClient
    settings: StripeSettings = field(default_factory=StripeSettings)

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    def prepare(self, source: object) -> Sequence[Intent]:
        """Return what Stripe is to have of a `Document`; nothing of anything else."""
        return intents_of(source, self.settings) if isinstance(source, Document) else []

    def send(self, items: Sequence[Item], desk: Desk) -> Sequence[Answer]:
        return [self._send(item, desk) for item in items]

    def read_back(self, items: Sequence[Item], desk: Desk) -> Sequence[Found]:
        return [self._look(item, desk) for item in items]

    def list_held(
        self, start: datetime, end: datetime, *, asked: Sequence[Asked], spend: Callable[[], object], read_at: datetime
    ) -> ProviderList:
        """Return every invoice and credit note that was made at Stripe in `[start, end)`, with lines and payment."""
        return held_at_stripe(self.client, start, end, read_at=read_at, spend=spend, units=self.settings.units)

    def _send(self, item: Item, desk: Desk) -> Answer:
        calls = Calls(self.client, item, desk)
        try:
            if item.kind == "invoice":
                return send_invoice(calls, self.settings)
            return send_credit_note(calls) if item.kind == "credit_note" else send_void(calls, self.settings)
        except stripe.StripeError as error:
            return answer_of(error)

    def _look(self, item: Item, desk: Desk) -> Found:
        calls = Calls(self.client, item, desk)
        try:
            if item.kind == "invoice":
                return look_for_invoice(calls, self.settings)
            return look_for_credit_note(calls) if item.kind == "credit_note" else look_for_void(calls, self.settings)
        except stripe.StripeError as error:
            # 401 and 403 raise; whatever else it was, what is there is not known.
            return Found("failed", answer_of(error).detail)


def make(settings: Mapping[str, Any]) -> StripeAdapter:
    """Return the adapter of the section [delivery.stripe]; the key is in TALLYBOOK_STRIPE_KEY. Raises AdapterMisconfigured.

    `address` points it at another server, such as the fake of `billing_adapters.testing`.
    """
    access = access_of(CAPABILITIES.name, settings)
    return StripeAdapter(access.client(), StripeSettings(**access.settings))
