"""BREAK and CONTROL_RUN for tests of what happens to them afterwards: small rows with everything else filled in."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from billing_adapters.findings import Run
from billing_adapters.reconciliation.tables import break_schema, control_run_schema, dedupe_key_of, finding_id_of

OCTOBER = date(2026, 10, 1), date(2026, 11, 1)
NOW = datetime(2026, 11, 2, 6, tzinfo=UTC)


def break_row(control_id: str = "UNPRICED_METER", tenant_id: str | None = "acme", **given: Any) -> dict[str, Any]:
    """Return one row of BREAK: 40.00 USD at risk of a meter that no plan prices, unless said otherwise."""
    amount = Decimal(str(given.pop("amount", "40.00")))
    row: dict[str, Any] = dict.fromkeys(break_schema().names)
    row |= {
        "control_id": control_id,
        "control_version": 1,
        "run_id": "run-1",
        "period_start": OCTOBER[0],
        "period_end": OCTOBER[1],
        "tenant_id": tenant_id,
        "meter": "exports",
        "bucket": "unpriced_meter",
        "reason": "no_price",
        "subject": "",
        "rows": 20,
        "quantity_expected": Decimal(0),
        "quantity_actual": Decimal(2000),
        "quantity_difference": Decimal(2000),
        "unit": "export",
        "amount_low": amount,
        "amount_likely": amount,
        "amount_high": amount,
        "currency": "USD",
        "estimate_basis": "E3",
        "class": "AT_RISK",
        "owner": "FIN",
        "detail": "2,000 exports were used, and no price of the plan selects them",
        "evidence_sample": ["prod-1 #3 17"],
        **given,
    }
    key = dedupe_key_of(control_id, tenant_id, row["meter"], "2026-10", row["reason"], row["subject"])
    return {**row, "dedupe_key": key, "finding_id": finding_id_of(key)}


def breaks(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=break_schema())


def control_runs(*rows: dict[str, Any], run_id: str = "run-1", as_of: datetime = NOW) -> pa.Table:
    """Return CONTROL_RUN; each row says at least its control_id, and is `passed` unless it says otherwise."""
    made = [
        {
            "control_version": 1,
            "control_hash": "c" * 64,
            "run_id": run_id,
            "as_of": as_of,
            "period_start": OCTOBER[0],
            "period_end": OCTOBER[1],
            "point": "P4",
            "cadence": "at_close",
            "owner": "FIN",
            "is_ours": True,
            "parameters": "{}",
            "inputs": [],
            "result": "passed",
            "explanation": "",
            "breaks": 0,
            "findings": 0,
            **row,
        }
        for row in rows
    ]
    return pa.Table.from_pylist(made, schema=control_run_schema())


def run_of(number: int = 1, as_of: datetime = NOW, **given: Any) -> Run:
    values = {"verdict": "conserved", "preparer": "ana", "generator_version": "1", **given}
    return Run(f"run-{number}", *OCTOBER, as_of, "snap-1", **values)
