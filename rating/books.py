"""What rating writes into the books: closes, invoices, their lines, and the charges behind each line.

A close is the decision "these facts, under this catalog, are what this period is worth now". It is inserted if absent;
the invoices of a close are a pure function of it and of what earlier closes booked. Two schedulers cannot disagree.
Final invoices, their lines and charges are append-only; a void changes the status alone. Drafts are derived: they book
nothing and may be replaced.
"""

from __future__ import annotations

from sqlalchemy import Boolean, CheckConstraint, Column, ForeignKey, Index, Integer, Table, Text, UniqueConstraint

from metering.books import metadata
from metering.columns import ExactDecimal, Instant

# `kind` says what a close books: all that is due (`period`), only what was found late for periods closed before
# (`corrections`), or only accounts whose open amount reached a threshold (`thresholds`).
# One row per (period, sequence). Sequence 1 is the first cut of the period; a further one exists only while the
# period was still open at the one before (`is_complete` false). `sequence` 0 is the current draft of the period.
closes = Table(
    "closes",
    metadata,
    Column("close_id", Text, primary_key=True),
    Column("period_start", Instant, nullable=False),
    Column("period_end", Instant, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("position", Integer, nullable=False),
    Column("as_of", Instant, nullable=False),
    Column("is_complete", Boolean, nullable=False),
    Column("kind", Text, nullable=False),
    Column("snapshot_id", Text, ForeignKey("snapshots.snapshot_id"), nullable=False),
    Column("catalog_revision", Integer, nullable=False),
    Column("invoices_made", Boolean, nullable=False),
    UniqueConstraint("period_start", "period_end", "sequence"),
    CheckConstraint("sequence >= 0", name="sequence"),
    CheckConstraint("kind IN ('period', 'corrections', 'thresholds')", name="kind"),
)

# One row per (close, account, currency). `number` is gapless per series and given only to final invoices.
# `content_hash` is the sha256 of the canonical document of the invoice without its number.
invoices = Table(
    "invoices",
    metadata,
    Column("invoice_id", Text, primary_key=True),
    Column("close_id", Text, ForeignKey("closes.close_id"), nullable=False),
    Column("account_id", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("document_type", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("series", Text, nullable=False),
    Column("number", Text),
    Column("period_start", Instant, nullable=False),
    Column("period_end", Instant, nullable=False),
    Column("issued_at", Instant, nullable=False),
    Column("snapshot_id", Text, ForeignKey("snapshots.snapshot_id"), nullable=False),
    Column("catalog_revision", Integer, nullable=False),
    Column("total", ExactDecimal, nullable=False),
    Column("amount_due", ExactDecimal, nullable=False),
    Column("content_hash", Text, nullable=False),
    UniqueConstraint("close_id", "account_id", "currency"),
    UniqueConstraint("series", "number"),
    CheckConstraint("status IN ('draft', 'final', 'void')", name="status"),
    CheckConstraint("document_type IN ('invoice', 'credit_note', 'supplementary_invoice')", name="document_type"),
)

# One row per document that was taken back. `position` is its place among the closes: those after it find its lines not booked.
invoice_voids = Table(
    "invoice_voids",
    metadata,
    Column("invoice_id", Text, ForeignKey("invoices.invoice_id"), primary_key=True),
    Column("position", Integer, nullable=False, unique=True),
    Column("voided_at", Instant, nullable=False),
    Column("decided_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    CheckConstraint("reason <> ''", name="void_with_reason"),
)

# One row per (invoice, subscription, billing period, price, group): what stands on paper. `exact_amount` and `amount`
# are what this invoice books; the cumulative columns are what the period is worth, all invoices together.
invoice_lines = Table(
    "invoice_lines",
    metadata,
    Column("line_id", Text, primary_key=True),
    Column("invoice_id", Text, ForeignKey("invoices.invoice_id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("tenant_id", Text, nullable=False),
    Column("subscription_id", Text, nullable=False),
    Column("plan", Text, nullable=False),
    Column("plan_version", Integer, nullable=False),
    Column("price_id", Text, nullable=False),
    Column("price_type", Text, nullable=False),
    Column("meter", Text),
    Column("unit", Text),
    Column("group_key", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("period_start", Instant, nullable=False),
    Column("period_end", Instant, nullable=False),
    Column("service_start", Instant, nullable=False),
    Column("service_end", Instant, nullable=False),
    Column("quantity", ExactDecimal, nullable=False),
    Column("exact_amount", ExactDecimal, nullable=False),
    Column("amount", ExactDecimal, nullable=False),
    Column("cumulative_quantity", ExactDecimal, nullable=False),
    Column("cumulative_exact_amount", ExactDecimal, nullable=False),
    Column("cumulative_amount", ExactDecimal, nullable=False),
    UniqueConstraint("invoice_id", "position"),
    Index(None, "subscription_id", "period_start"),
    CheckConstraint("kind IN ('flat', 'usage', 'minimum', 'correction')", name="kind"),
)

# One row per component of a line: the part of the quantity in one tier at one unit price, or a flat amount.
# (subscription, period, service start, price, group, cell, tier, part, unit price) is the component key of worth minus
# booked.
charges = Table(
    "charges",
    metadata,
    Column("line_id", Text, ForeignKey("invoice_lines.line_id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("cell_key", Text, nullable=False),
    Column("tier", Integer, nullable=False),
    Column("part", Text, nullable=False),
    Column("quantity", ExactDecimal, nullable=False),
    Column("unit_price", ExactDecimal, nullable=False),
    Column("exact_amount", ExactDecimal, nullable=False),
)

# One row per (invoice, position): what a prepaid balance paid of a line, or, negative, was given back by a credit line.
balance_burns = Table(
    "balance_burns",
    metadata,
    Column("invoice_id", Text, ForeignKey("invoices.invoice_id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("line_id", Text, ForeignKey("invoice_lines.line_id"), nullable=False),
    Column("balance_id", Text, nullable=False),
    Column("amount", ExactDecimal, nullable=False),
    Index(None, "balance_id"),
)

# One row per series: the last number given out. Read and raised in the transaction that inserts the invoices.
number_series = Table(
    "number_series",
    metadata,
    Column("series", Text, primary_key=True),
    Column("last_number", Integer, nullable=False),
)
