"""What usage is worth: prices, plans, rating, invoices. See rating/README.md for what it owns and does not own."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rating.close import Close
    from rating.invoice import Charge, Invoice, InvoiceLine
    from rating.plans import Account, Plan, Subscription
    from rating.rate import RatedQuantity, rate_quantities, rate_quantity
    from rating.rounding import round_amount
    from rating.terms import Terms

__all__ = [
    "Account",
    "Charge",
    "Close",
    "Invoice",
    "InvoiceLine",
    "Plan",
    "RatedQuantity",
    "Subscription",
    "Terms",
    "rate_quantities",
    "rate_quantity",
    "round_amount",
]

_HOMES = {
    "Account": "rating.plans",
    "Charge": "rating.invoice",
    "Close": "rating.close",
    "Invoice": "rating.invoice",
    "InvoiceLine": "rating.invoice",
    "Plan": "rating.plans",
    "RatedQuantity": "rating.rate",
    "Subscription": "rating.plans",
    "Terms": "rating.terms",
    "rate_quantities": "rating.rate",
    "rate_quantity": "rating.rate",
    "round_amount": "rating.rounding",
}


def __getattr__(name: str) -> Any:
    # Imported when first asked for, so that reading a plan does not load the engine.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rating' has no attribute {name!r}")
