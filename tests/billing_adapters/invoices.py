"""Final invoices for the tests of delivery: small, exact, and the same every time."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from rating.invoice import Invoice, InvoiceLine

OCTOBER = (datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC))


def line(position: int, amount: str, *, currency: str = "USD", **more: object) -> InvoiceLine:
    """Return a line of an invoice of October."""
    fields: dict[str, object] = {
        "line_id": f"line-{position:04}",
        "position": position,
        "kind": "usage",
        "tenant_id": "acme",
        "subscription_id": "sub-acme",
        "plan": "pro",
        "plan_version": 1,
        "price_id": f"price-{position}",
        "price_type": "unit",
        "meter": "tokens",
        "unit": "token",
        "group_key": "",
        "description": f"Tokens {position}",
        "currency": currency,
        "period_start": OCTOBER[0],
        "period_end": OCTOBER[1],
        "service_start": OCTOBER[0],
        "service_end": OCTOBER[1],
        "quantity": Decimal("12.345678901"),
        "exact_amount": Decimal(amount),
        "amount": Decimal(amount),
        "cumulative_quantity": Decimal("12.345678901"),
        "cumulative_exact_amount": Decimal(amount),
        "cumulative_amount": Decimal(amount),
        "charges": (),
        **more,
    }
    return InvoiceLine(**fields)  # type: ignore[arg-type]


def invoice(at: int, *amounts: str, currency: str = "USD", account: str = "acme-inc", **more: object) -> Invoice:
    """Return a final invoice of October with one line per amount."""
    total = sum((Decimal(amount) for amount in amounts), Decimal(0))
    made = tuple(
        line(position, amount, currency=currency, line_id=f"line-{at}-{position:04}")
        for position, amount in enumerate(amounts, 1)
    )
    fields: dict[str, object] = {
        "invoice_id": f"invoice-{at}",
        "close_id": "close-1",
        "account_id": account,
        "currency": currency,
        "document_type": "invoice",
        "status": "final",
        "number": f"INV-{at:08}",
        "period_start": OCTOBER[0],
        "period_end": OCTOBER[1],
        "issued_at": OCTOBER[1],
        "snapshot_id": "snapshot-1",
        "catalog_revision": 1,
        "total": total,
        "amount_due": total,
        "lines": made,
        **more,
    }
    return Invoice(**fields)  # type: ignore[arg-type]
