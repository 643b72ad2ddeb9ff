"""The Stripe adapter: our invoices, credit notes and voids at Stripe, exactly once and to the cent. See docs/delivery.md."""

from __future__ import annotations

from billing_adapters.stripe_adapter.adapter import CAPABILITIES, StripeAdapter, make
from billing_adapters.stripe_adapter.documents import StripeSettings

__all__ = ["CAPABILITIES", "StripeAdapter", "StripeSettings", "make"]
