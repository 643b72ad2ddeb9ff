"""Stripe's late reports on meter events: what it accepted at once and could not count afterwards.

Enters: a report, fetched by the id that a thin event gave. Leaves: what it says, per code. Refuses: to guess: the samples of a
report are not all that it counts, so totals are compared as well (PROVIDER_QUANTITY). Source: reference/providers.md, 3.2.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from billing_adapters.late_refusals import LateRefusal

if TYPE_CHECKING:
    from collections.abc import Mapping

ADAPTER = "stripe_meters"
REPORTS = ("v1.billing.meter.error_report_triggered", "v1.billing.meter.no_meter_found")


def refusals_of(report: Mapping[str, Any], received_at: datetime) -> list[LateRefusal]:
    """Return what a report says, one per code. A name that it gives is the Idempotency-Key, which is `Item.sending_id`."""
    data = report["data"]
    related = report.get("related_object") or {}
    return [
        LateRefusal(
            adapter=ADAPTER,
            event_id=report["id"],
            code=one["code"],
            kind=report["type"],
            error_count=int(one["error_count"]),
            named=tuple(sorted({sample["request"]["identifier"] for sample in one.get("sample_errors") or ()})),
            message=next((sample["error_message"] for sample in one.get("sample_errors") or ()), one["code"]),
            subject=related.get("id"),
            start_at=_instant(data.get("validation_start")),
            end_at=_instant(data.get("validation_end")),
            received_at=received_at,
        )
        for one in data["reason"]["error_types"]
    ]


def _instant(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
