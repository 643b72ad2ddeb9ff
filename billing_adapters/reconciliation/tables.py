"""The two tables that every control fills, ours or a workspace's own: BREAK and CONTROL_RUN.

Enters: nothing. Leaves: two Arrow schemas and the words that their columns may hold. Refuses: other words.
What happens to a finding afterwards (first and last seen, status, waiver, severity) is kept in the books, not here.

Grain: BREAK has one row per (control, tenant, meter, period, reason, subject); CONTROL_RUN one per control and run, also
where nothing was found. Quantities are units of the meter; amounts are exact, unrounded money of `currency`. Instants UTC.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pyarrow as pa

# What a break means: section 4 of the catalogue of controls.
CLASSES: Final = ("LOST", "AT_RISK", "TIMING", "OVERBILL", "CONCESSION", "DATA_QUALITY", "INFO")
# Who acts: application engineers, billing operators, finance, sales, security.
OWNERS: Final = ("ENG", "OPS", "FIN", "SALES", "SEC")
# How an amount was estimated, best first. EXACT: the control's own figures are money. E1 marginal re-rating under the
# tenant's own plan version; E2 realised unit price of the last closed period; E3 list price; E4 no amount.
BASES: Final = ("EXACT", "E1", "E2", "E3", "E4")
# passed: ran, found nothing. breaks: ran, found something. not_run: due, and an input was missing or stale or its
# statement failed. not_possible: an input is not configured; `explanation` says what would make it possible.
RESULTS: Final = ("passed", "breaks", "not_run", "not_possible")
EVIDENCE_SAMPLE_MAX: Final = 20


@cache
def break_schema() -> pa.Schema:
    """Return BREAK: one row per difference that a control found, with what it is worth.

    `finding_id` is the same whenever the same thing is found again. `subject` names what the break is about where tenant,
    meter and reason do not tell it apart (an invoice, a producer, a delivery), else ''. `rows` is the number of usage events
    or documents, null where nobody can say. `quantity_difference` and the amounts are never negative: `class` tells over-
    billing (OVERBILL) from under-billing; nothing is netted. low <= likely <= high. `bucket` is the one of the conservation
    statement that holds the break, or ''. `recover_by`: the end of it is open; null where no deadline is known.
    """
    import pyarrow as pa

    text, instant = pa.string(), pa.timestamp("us", tz="UTC")
    quantity, amount = pa.decimal128(38, 9), pa.decimal128(38, 21)
    return pa.schema(
        [
            pa.field("finding_id", text, nullable=False),
            pa.field("dedupe_key", text, nullable=False),
            pa.field("control_id", text, nullable=False),
            pa.field("control_version", pa.int64(), nullable=False),
            pa.field("run_id", text, nullable=False),
            pa.field("period_start", pa.date32(), nullable=False),
            pa.field("period_end", pa.date32(), nullable=False),
            pa.field("tenant_id", text),
            pa.field("account_id", text),
            pa.field("subscription_id", text),
            pa.field("meter", text),
            pa.field("adapter", text),
            pa.field("bucket", text, nullable=False),
            pa.field("reason", text, nullable=False),
            pa.field("subject", text, nullable=False),
            pa.field("rows", pa.int64()),
            pa.field("quantity_expected", quantity),
            pa.field("quantity_actual", quantity),
            pa.field("quantity_difference", quantity),
            pa.field("unit", text),
            pa.field("amount_low", amount),
            pa.field("amount_likely", amount),
            pa.field("amount_high", amount),
            pa.field("currency", text),
            pa.field("estimate_basis", text, nullable=False),
            pa.field("class", text, nullable=False),
            pa.field("occurred_at", instant),
            pa.field("recover_by", instant),
            pa.field("owner", text, nullable=False),
            pa.field("detail", text, nullable=False),
            pa.field("evidence_query", text),
            pa.field("evidence_path", text),
            pa.field("evidence_hash", text),
            pa.field("evidence_sample", pa.list_(text), nullable=False),
        ]
    )


@cache
def control_run_schema() -> pa.Schema:
    """Return CONTROL_RUN: one row per control and run, also for controls that found nothing or could not run.

    `parameters` is a JSON object: the settings that were used, as text. `inputs` has one entry per table that the control
    needs: its rows, a SHA-256 of what it holds (the same for the same rows in any order), the newest instant in it, and the
    greatest age it may have, in seconds. `explanation`: the error of a `not_run`, the remedy of a `not_possible`, else ''.
    """
    import pyarrow as pa

    text, instant = pa.string(), pa.timestamp("us", tz="UTC")
    read = pa.struct(
        [
            pa.field("name", text, nullable=False),
            pa.field("rows", pa.int64()),
            pa.field("content_hash", text),
            pa.field("newest", instant),
            pa.field("age_max_s", pa.int64()),
            pa.field("is_stale", pa.bool_(), nullable=False),
        ]
    )
    return pa.schema(
        [
            pa.field("control_id", text, nullable=False),
            pa.field("control_version", pa.int64(), nullable=False),
            pa.field("control_hash", text, nullable=False),
            pa.field("run_id", text, nullable=False),
            pa.field("as_of", instant, nullable=False),
            pa.field("period_start", pa.date32(), nullable=False),
            pa.field("period_end", pa.date32(), nullable=False),
            pa.field("point", text, nullable=False),
            pa.field("cadence", text, nullable=False),
            pa.field("owner", text, nullable=False),
            pa.field("is_ours", pa.bool_(), nullable=False),
            pa.field("parameters", text, nullable=False),
            pa.field("inputs", pa.list_(read), nullable=False),
            pa.field("result", text, nullable=False),
            pa.field("explanation", text, nullable=False),
            pa.field("breaks", pa.int64(), nullable=False),
            pa.field("findings", pa.int64(), nullable=False),
        ]
    )


def refuse_floats(table: pa.Table) -> None:
    """Raise ValueError where a column is a binary float: no cast makes an exact figure of it."""
    import pyarrow as pa

    floats = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    if floats:
        raise ValueError(f"{floats[0]} is a binary float; give a DECIMAL, and multiply where `/` would make a DOUBLE")


def dedupe_key_of(
    control_id: str, tenant_id: str | None, meter: str | None, period: str, reason: str, subject: str = ""
) -> str:
    """Return what makes a finding the same one in a later run. Parts are joined by the unit separator U+001F."""
    parts = [control_id, tenant_id or "", meter or "", period, reason]
    return "\x1f".join([*parts, subject] if subject else parts)


def finding_id_of(dedupe_key: str) -> str:
    """Return the id of the finding with this key: short, and the same on every machine."""
    return "find-" + hashlib.sha256(dedupe_key.encode()).hexdigest()[:24]
