"""What billing_adapters writes into the books: deliveries with their attempts, names at providers,
the pace of calls, and what providers say of payment.

A delivery is what is to be at a provider: inserted if absent, under a key that is a hash of what it is. Its payload never
changes. Attempts are append-only but for their outcome, which is written once: an attempt without one was interrupted.
"""

from __future__ import annotations

from sqlalchemy import Boolean, CheckConstraint, Column, ForeignKey, Index, Integer, Table, Text, UniqueConstraint

from metering.books import metadata
from metering.columns import ExactDecimal, Instant

# One row per (adapter, kind, natural key, content). `revision` counts contents of one natural key: a provider whose first
# write stands gets no second one (it is parked), one that overwrites gets them in order. `deadline` is `recover_by`, or
# the end of time, so that it sorts. `fence` is raised by each claim: who holds an older one may not write any more.
# `is_uncertain`: something may be at the provider that nobody has confirmed; read back before writing.
deliveries = Table(
    "deliveries",
    metadata,
    Column("delivery_id", Text, primary_key=True),
    Column("adapter", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("natural_key", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("content_hash", Text, nullable=False),
    Column("payload", Text, nullable=False),
    Column("lane", Text, nullable=False),
    Column("rank", Text, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("amount", ExactDecimal),
    Column("currency", Text),
    Column("quantity", ExactDecimal),
    Column("series", Text),
    Column("state", Text, nullable=False),
    Column("outcome", Text),
    Column("reason", Text, nullable=False),
    Column("is_uncertain", Boolean, nullable=False),
    Column("progress", Text, nullable=False),
    Column("provider_id", Text),
    Column("attempts", Integer, nullable=False),
    Column("enqueued_at", Instant, nullable=False),
    Column("next_attempt_at", Instant, nullable=False),
    Column("deadline", Instant, nullable=False),
    Column("claimed_by", Text),
    Column("claimed_until", Instant),
    Column("fence", Integer, nullable=False),
    Column("ended_at", Instant),
    Column("decided_by", Text),
    UniqueConstraint("adapter", "kind", "natural_key", "revision"),
    CheckConstraint("state IN ('pending', 'attempting', 'delivered', 'parked', 'waived')", name="state"),
    CheckConstraint("state <> 'parked' OR reason <> ''", name="parked_with_reason"),
    Index("ix_deliveries_queue", "adapter", "state", "deadline", "next_attempt_at", "rank", "delivery_id"),
    Index("ix_deliveries_lane", "adapter", "lane", "state"),
    Index("ix_deliveries_subject", "subject"),
    Index("ix_deliveries_series", "adapter", "series"),
)

# One row per attempt of a delivery, written before the first byte leaves. `outcome` null: interrupted, so unknown.
delivery_attempts = Table(
    "delivery_attempts",
    metadata,
    Column("delivery_id", Text, ForeignKey("deliveries.delivery_id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("deliverer", Text, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("ended_at", Instant),
    Column("outcome", Text),
    Column("detail", Text),
    Column("code", Text),
    Column("request_id", Text),
)

# One row per thing of ours that many deliveries share at a provider: kind `customer` of a billing account, for instance.
delivery_links = Table(
    "delivery_links",
    metadata,
    Column("adapter", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("our_id", Text, primary_key=True),
    Column("provider_id", Text, nullable=False),
    Column("linked_at", Instant, nullable=False),
)

# One row per adapter: from when on its next call may be made. All deliverers of all hosts draw on it.
delivery_paces = Table(
    "delivery_paces",
    metadata,
    Column("adapter", Text, primary_key=True),
    Column("next_call_at", Instant, nullable=False),
)

# One row per invoice at a provider: what it says of payment, as it was when we read it (`read_at`, our clock). The newest
# reading stays, whatever the order of events. Amounts are in the currency; `total` is what was invoiced there.
payments = Table(
    "payments",
    metadata,
    Column("adapter", Text, primary_key=True),
    Column("provider_id", Text, primary_key=True),
    Column("invoice_id", Text),
    Column("status", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("total", ExactDecimal, nullable=False),
    Column("amount_due", ExactDecimal, nullable=False),
    Column("amount_paid", ExactDecimal, nullable=False),
    Column("amount_remaining", ExactDecimal, nullable=False),
    Column("read_at", Instant, nullable=False),
    Index("ix_payments_invoice_id", "invoice_id"),
)

# One row per event of a provider that was taken, so that it is taken once.
provider_events = Table(
    "provider_events",
    metadata,
    Column("adapter", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("received_at", Instant, nullable=False),
)
