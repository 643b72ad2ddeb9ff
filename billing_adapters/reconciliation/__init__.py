"""The conservation statement: everything that was recorded and everything it is worth is in exactly one named bucket."""

from __future__ import annotations

from billing_adapters.reconciliation.equations import (
    Bookings,
    Capture,
    conservation,
    entitled_use_schema,
    in_flight_of,
    in_flight_schema,
)
from billing_adapters.reconciliation.render import render
from billing_adapters.reconciliation.statement import ConservationRow, Finding, Statement, as_json

__all__ = [
    "Bookings",
    "Capture",
    "ConservationRow",
    "Finding",
    "Statement",
    "as_json",
    "conservation",
    "entitled_use_schema",
    "in_flight_of",
    "in_flight_schema",
    "render",
]
