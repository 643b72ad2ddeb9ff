"""What a close rated and invoiced, as control points: counted from the invoices as they are made, before they are written.

Enters: a close, its numbered invoices, its terms. Leaves: control points P4 (charges, exact) and P5 (lines, documents, what
prepaid balances paid). Refuses: to read the books. One row per (account, tenant, meter, currency) and reason.
Charges of billing periods that belong to the period of the close are `charged`; those of earlier ones are `corrected`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metering.control_points import INVOICED, RATED, ControlPoint
from metering.numbers import exact_sum
from rating.spans import plan_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rating.close import Close
    from rating.invoice import Invoice, InvoiceLine
    from rating.terms import Terms


def points_of(close: Close, made: Sequence[Invoice], terms: Terms) -> Iterator[ControlPoint]:
    """Yield what the invoices of a close come to; `write_points` adds it up. Quantities are units of the meter."""
    for invoice in made:
        whole: dict[str, Any] = {
            "batch_id": close.close_id,
            "previous_batch_id": close.snapshot.snapshot_id,
            "written_at": invoice.issued_at,
            "account_id": invoice.account_id,
            "currency": invoice.currency,
            "period_start": invoice.period_start,
            "period_end": invoice.period_end,
        }
        for line in invoice.lines:
            part = {**whole, "tenant_id": line.tenant_id, "meter": line.meter or "", "quantity": line.quantity}
            charged = exact_sum([charge.exact_amount for charge in line.charges])
            reason = "charged" if _is_own(close, line, terms) else "corrected"
            yield ControlPoint(RATED, reason=reason, event_count=len(line.charges), amount=charged, **part)
            yield ControlPoint(INVOICED, reason="line", amount=line.amount, **part)
        yield ControlPoint(INVOICED, reason=invoice.document_type, amount=invoice.amount_due, **whole)
        if invoice.prepaid:
            paid = exact_sum([burn.amount for burn in invoice.prepaid])
            yield ControlPoint(INVOICED, reason="prepaid", event_count=len(invoice.prepaid), amount=paid, **whole)


def _is_own(close: Close, line: InvoiceLine, terms: Terms) -> bool:
    """Return whether the billing period of a line belongs to the period of the close: its last instant lies in it."""
    plan = terms.plans.get(plan_key(line.plan, line.plan_version))
    # A plan that is gone takes back what it booked; its zone is gone with it, and no zone is a day away from UTC.
    period = close.wall.in_zone("UTC" if plan is None else plan.billing_period.timezone)
    return period.start < line.period_end <= period.end
