"""The tables of a report, column by column; CSV, Parquet and the sheets of the workbook follow them.

Enters: nothing. Leaves: declared shapes. Refuses: columns that could never be filled. Source: the catalogue of controls, sections
1 and 12, and finance files, section 1.

A sheet is called as its shape is. Amounts are exact, of the row's currency; quantities are units of the meter; times are UTC.
"""

from __future__ import annotations

from billing_adapters.file_adapter.columns import Column, FileShape, Type


def _column(name: str, kind: Type, meaning: str, *, nullable: bool = True) -> Column:
    return Column(name, kind, meaning, nullable=nullable)


_RUN = _column("run_id", "text", "the reconciliation", nullable=False)
_FINDING = _column("finding_id", "text", "the finding; the same in every run that sees it", nullable=False)
_CONTROL = _column("control_id", "text", "the control", nullable=False)
_CURRENCY = _column("currency", "text", "the currency of all amounts of the row, by ISO 4217")
_METER = _column("meter", "text", "what was counted; empty stands for no meter")
_PERIOD = (
    _column("period_start", "date", "the first day of the period", nullable=False),
    _column("period_end", "date", "the first day after the period", nullable=False),
)

FINDINGS = FileShape(
    name="Findings",
    grain="one row per finding of the period, whatever its status",
    columns=(
        _RUN,
        _FINDING,
        _column("dedupe_key", "text", "control, tenant, meter, period, reason: what makes it the same", nullable=False),
        _CONTROL,
        _column("control_version", "integer", "the version of the control that saw it last", nullable=False),
        *_PERIOD,
        _column("status", "text", "open, acknowledged, recovered, waived, expired, cleared", nullable=False),
        _column("class", "text", "what it means now: LOST, AT_RISK, OVERBILL, TIMING and others", nullable=False),
        _column("severity", "text", "info, low, medium, high, critical", nullable=False),
        _column("owner", "text", "who acts", nullable=False),
        _column("tenant_id", "text", "who used it"),
        _column("account_id", "text", "the billing account"),
        _column("subscription_id", "text", "the subscription"),
        _METER,
        _column("adapter", "text", "the adapter of the provider"),
        _column("bucket", "text", "where totals count it; empty: another control counts the same units"),
        _column("reason", "text", "why it is a break, in a word", nullable=False),
        _column("subject", "text", "what it is about, where tenant and meter do not tell"),
        _column("rows", "integer", "usage events or documents"),
        _column("quantity_expected", "quantity", "the figure that should be there"),
        _column("quantity_actual", "quantity", "the figure that is there"),
        _column("quantity_difference", "quantity", "how much they differ, never negative"),
        _column("unit", "text", "what one unit is called"),
        _column("amount_low", "exact_amount", "the least it is worth"),
        _column("amount_likely", "exact_amount", "what it is likely worth"),
        _column("amount_high", "exact_amount", "the most it is worth"),
        _CURRENCY,
        _column("estimate_basis", "text", "EXACT, or how it was estimated: E1 to E4"),
        _column("occurred_at", "instant", "when it happened"),
        _column("first_seen", "instant", "the run that found it", nullable=False),
        _column("last_seen", "instant", "the last run that saw it", nullable=False),
        _column("recover_by", "instant", "until when it can be recovered"),
        _column("waiver_id", "text", "the waiver that covers it"),
        _column("settled_amount", "exact_amount", "what was recovered, as somebody said"),
        _column("detail", "text", "what its control says of it"),
        _column("evidence_sample", "text", "at most 20 usage events or documents, as JSON"),
        _column("evidence_query", "text", "the query that shows the rest"),
        _column("evidence_path", "text", "the file that shows it"),
        _column("evidence_hash", "text", "the SHA-256 of that file"),
    ),
    key=("finding_id",),
    control_totals=(("amount_likely", "currency"),),
)
HISTORY = FileShape(
    name="History",
    grain="one row per step in the life of a finding; steps are never changed",
    columns=(
        _RUN,
        _FINDING,
        _column("number", "integer", "counted from 1", nullable=False),
        _column("at", "instant", "when", nullable=False),
        _column("verb", "text", "what happened", nullable=False),
        _column("status", "text", "what it is since then", nullable=False),
        _column("class", "text", "what it means since then", nullable=False),
        _column("by", "text", "who said so; tallybook: a run concluded it", nullable=False),
        _column("why", "text", "the reason"),
    ),
    key=("finding_id", "number"),
    control_totals=(),
)
WATERFALL = FileShape(
    name="Waterfall",
    grain="one row per bar: a level flows on, everything else leaves between two levels",
    columns=(
        _RUN,
        _column("unit", "text", "usage events, a meter, or money", nullable=False),
        _METER,
        _CURRENCY,
        _column("position", "integer", "counted from 1", nullable=False),
        _column("bucket", "text", "where it is", nullable=False),
        _column("kind", "text", "level, explained, finding, unexplained", nullable=False),
        _column("quantity", "quantity", "usage events, or units of the meter"),
        _column("exact_amount", "exact_amount", "money"),
    ),
    key=("unit", "position"),
    control_totals=(),
)
TIE_OUTS = FileShape(
    name="Tie-outs",
    grain="one row per equation, meter and currency: a left side and what it must be equal to",
    columns=(
        _RUN,
        _column("equation", "text", "the left side", nullable=False),
        _METER,
        _CURRENCY,
        _column("adapter", "text", "of which provider the row speaks; empty: of none"),
        _column("rows", "integer", "usage events of the left side"),
        _column("rows_explained", "integer", "usage events in named buckets"),
        _column("quantity", "quantity", "units of the left side"),
        _column("quantity_explained", "quantity", "units in named buckets"),
        _column("exact_amount", "exact_amount", "money of the left side"),
        _column("exact_amount_explained", "exact_amount", "money in named buckets"),
        _column(
            "unexplained", "exact_amount", "the difference of units, or of money: zero, or a finding", nullable=False
        ),
    ),
    key=("equation", "currency", "adapter", "meter"),
    control_totals=(),
)
REGISTER = FileShape(
    name="Invoice register",
    grain="one row per final document with a line of the period",
    columns=(
        _RUN,
        _column("invoice_id", "text", "the document", nullable=False),
        _column("number", "text", "the number on paper"),
        _column("document_type", "text", "invoice, credit note, supplementary invoice", nullable=False),
        _column("account_id", "text", "the billing account", nullable=False),
        _CURRENCY,
        _column("total", "exact_amount", "the sum of its lines", nullable=False),
        _column("amount_of_period", "exact_amount", "the sum of its lines of this period", nullable=False),
        _column("issued_at", "instant", "when it was made"),
        _column("delivery", "text", "delivered, pending, parked, waived, unsent", nullable=False),
        _column("adapters", "text", "by which adapters"),
        _column("payment", "text", "what the provider says of payment"),
        _column("paid", "exact_amount", "what was paid, as the provider says"),
    ),
    key=("invoice_id",),
    control_totals=(("total", "currency"),),
)
ROLL_FORWARDS = FileShape(
    name="Roll-forwards",
    grain="one row per meter and currency: what the use of the period is worth, and what of it is not invoiced yet",
    columns=(
        _RUN,
        _METER,
        _CURRENCY,
        _column("worth", "exact_amount", "what billing periods of the period are worth", nullable=False),
        _column("invoiced", "exact_amount", "what final documents booked of it", nullable=False),
        _column("carried", "exact_amount", "what rounding carries", nullable=False),
        _column("unbilled", "exact_amount", "what is not invoiced yet: accrued revenue", nullable=False),
    ),
    key=("currency", "meter"),
    control_totals=(),
)
CONTROL_LOG = FileShape(
    name="Control log",
    grain="one row per control of the run, also where it found nothing",
    columns=(
        _RUN,
        _CONTROL,
        _column("control_version", "integer", "the version", nullable=False),
        _column("control_hash", "text", "the SHA-256 of its file", nullable=False),
        _column("point", "text", "where in the pipeline it looks"),
        _column("cadence", "text", "how often it is due"),
        _column("owner", "text", "who acts"),
        _column("is_ours", "text", "yes: shipped with Tallybook; no: of this workspace", nullable=False),
        *_PERIOD,
        _column("as_of", "instant", "when we looked", nullable=False),
        _column("result", "text", "passed, breaks, not_run, not_possible", nullable=False),
        _column("breaks", "integer", "differences that it found", nullable=False),
        _column("explanation", "text", "why it did not run, or what would make it possible"),
        _column("parameters", "text", "its settings, as JSON"),
        _column("inputs", "text", "what it read: rows, SHA-256, newest instant, as JSON"),
    ),
    key=("control_id",),
    control_totals=(),
)
PARAMETERS = FileShape(
    name="Parameters",
    grain="one row per fact that the run rests on",
    columns=(
        _RUN,
        _column("name", "text", "what", nullable=False),
        _column("value", "text", "how much, or which"),
    ),
    key=("name",),
    control_totals=(),
)
SHEETS = (WATERFALL, FINDINGS, HISTORY, TIE_OUTS, REGISTER, ROLL_FORWARDS, CONTROL_LOG, PARAMETERS)
