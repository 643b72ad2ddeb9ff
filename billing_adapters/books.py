"""What billing_adapters writes into the books: deliveries with their attempts, names at providers,
the pace of calls, what providers say of payment, and what reconciliation found and what became of it.

A delivery is what is to be at a provider: inserted if absent, under a key that is a hash of what it is. Its payload never
changes. Attempts are append-only but for their outcome, which is written once: an attempt without one was interrupted.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    ForeignKey,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
)

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

# One row per payment, refund or write-off that is booked; append-only. What a provider says in sum of an invoice (`paid so
# far`) is booked as the difference to what is booked (`sequence` counts them per adapter, provider_id and kind), a payment that
# has an id of its own as it is (sequence 1). `amount` lowers what is owed, so a refund is below zero. `position`: its place
# among the closes. `paid_at` is the provider's instant, `posted_at` the one that it is booked on, which is never before the
# last close.
settlements = Table(
    "settlements",
    metadata,
    Column("settlement_id", Text, primary_key=True),
    Column("position", Integer, nullable=False),
    Column("adapter", Text, nullable=False),
    Column("provider_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("invoice_id", Text, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("currency", Text, nullable=False),
    Column("amount", ExactDecimal, nullable=False),
    Column("paid_at", Instant),
    Column("posted_at", Instant, nullable=False),
    Column("read_at", Instant, nullable=False),
    Column("booked_at", Instant, nullable=False),
    UniqueConstraint("adapter", "provider_id", "kind", "sequence"),
    CheckConstraint("kind IN ('payment', 'refund', 'write_off')", name="kind"),
    Index("ix_settlements_position", "position"),
    Index("ix_settlements_invoice_id", "invoice_id"),
)

# One row per final document: in whose name it asks for how much, by when. Kept when it is first published, because taxes are
# worked out from the catalog that a document pins; deleted, it is worked out again.
receivables = Table(
    "receivables",
    metadata,
    Column("invoice_id", Text, primary_key=True),
    Column("entity", Text),
    Column("payable", ExactDecimal, nullable=False),
    Column("due_on", Date),
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

# One row per report of late refusals and code: what a provider accepted and refused afterwards. `named`: a JSON list of the
# sendings that it names, which are samples of `error_count`; `subject`: the provider's id of what refused them.
late_refusals = Table(
    "late_refusals",
    metadata,
    Column("adapter", Text, primary_key=True),
    Column("event_id", Text, primary_key=True),
    Column("code", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("error_count", Integer, nullable=False),
    Column("named", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("subject", Text),
    Column("start_at", Instant),
    Column("end_at", Instant),
    Column("received_at", Instant, nullable=False),
)

# One row per finding, whatever runs see it: BREAK as it was last seen, and what became of it. `control_class` is what the
# control says; `class` what is true now (AT_RISK past its `recover_by` is LOST). `settled_amount` and `settled_quantity`:
# what a person said was recovered; a larger break opens the finding again. Amounts are exact, of `currency`.
findings = Table(
    "findings",
    metadata,
    Column("finding_id", Text, primary_key=True),
    Column("dedupe_key", Text, nullable=False, unique=True),
    Column("control_id", Text, nullable=False),
    Column("control_version", Integer, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("period_start", Date, nullable=False),
    Column("period_end", Date, nullable=False),
    Column("tenant_id", Text),
    Column("account_id", Text),
    Column("subscription_id", Text),
    Column("meter", Text),
    Column("adapter", Text),
    Column("bucket", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("rows", BigInteger),
    Column("quantity_expected", ExactDecimal),
    Column("quantity_actual", ExactDecimal),
    Column("quantity_difference", ExactDecimal),
    Column("unit", Text),
    Column("amount_low", ExactDecimal),
    Column("amount_likely", ExactDecimal),
    Column("amount_high", ExactDecimal),
    Column("currency", Text),
    Column("estimate_basis", Text, nullable=False),
    Column("control_class", Text, nullable=False),
    Column("class", Text, nullable=False),
    Column("occurred_at", Instant),
    Column("recover_by", Instant),
    Column("owner", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("evidence_query", Text),
    Column("evidence_path", Text),
    Column("evidence_hash", Text),
    Column("evidence_sample", Text, nullable=False),
    Column("first_seen", Instant, nullable=False),
    Column("last_seen", Instant, nullable=False),
    Column("status", Text, nullable=False),
    Column("waiver_id", Text, ForeignKey("waivers.waiver_id")),
    Column("settled_amount", ExactDecimal),
    Column("settled_quantity", ExactDecimal),
    CheckConstraint("status IN ('open', 'acknowledged', 'recovered', 'waived', 'expired', 'cleared')", name="status"),
    CheckConstraint("status <> 'waived' OR waiver_id IS NOT NULL", name="waived_by_a_waiver"),
    Index(None, "period_start", "period_end", "control_id"),
    Index(None, "status"),
)

# One row per step in the life of a finding, numbered from 1: what happened, what it is since then, who said so and why.
# Never changed, never removed. `by` is a person, or `tallybook` for what a run concludes by itself.
finding_events = Table(
    "finding_events",
    metadata,
    Column("finding_id", Text, ForeignKey("findings.finding_id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Instant, nullable=False),
    Column("verb", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("class", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("run_id", Text),
    Column("amount_likely", ExactDecimal),
    Column("quantity_difference", ExactDecimal),
)

# One row per waiver. It covers findings of one control; null means any. In one run of one period, all that it covers
# together stay at or below its ceiling: `amount_max` of `currency`, or `quantity_max` where no amount is known. Nobody
# approves a waiver of their own, and none is for ever.
waivers = Table(
    "waivers",
    metadata,
    Column("waiver_id", Text, primary_key=True),
    Column("control_id", Text, nullable=False),
    Column("tenant_id", Text),
    Column("meter", Text),
    Column("reason", Text),
    Column("dedupe_key", Text),
    Column("why", Text, nullable=False),
    Column("amount_max", ExactDecimal),
    Column("currency", Text),
    Column("quantity_max", ExactDecimal),
    Column("created_by", Text, nullable=False),
    Column("approved_by", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("ended_at", Instant),
    Column("ended_by", Text),
    Column("ended_why", Text),
    CheckConstraint("why <> ''", name="why"),
    CheckConstraint("approved_by <> created_by", name="approved_by_another"),
    CheckConstraint("amount_max IS NULL OR currency IS NOT NULL", name="amount_with_currency"),
)

# One row per reconciliation of a period: what was read and what it said. `preparer` started it.
reconciliations = Table(
    "reconciliations",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("period_start", Date, nullable=False),
    Column("period_end", Date, nullable=False),
    Column("as_of", Instant, nullable=False),
    Column("snapshot_id", Text, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("preparer", Text, nullable=False),
    Column("generator_version", Text, nullable=False),
    Column("reviewer", Text),
    Column("reviewed_at", Instant),
    CheckConstraint("reviewer IS NULL OR reviewer <> preparer", name="reviewed_by_another"),
    Index(None, "period_start", "period_end", "as_of"),
)

# One row per control and run, also where nothing was found: CONTROL_RUN, with `inputs` and `parameters` as JSON.
control_runs = Table(
    "control_runs",
    metadata,
    Column("run_id", Text, ForeignKey("reconciliations.run_id"), primary_key=True),
    Column("control_id", Text, primary_key=True),
    Column("control_version", Integer, nullable=False),
    Column("control_hash", Text, nullable=False),
    Column("as_of", Instant, nullable=False),
    Column("period_start", Date, nullable=False),
    Column("period_end", Date, nullable=False),
    Column("point", Text, nullable=False),
    Column("cadence", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("is_ours", Boolean, nullable=False),
    Column("parameters", Text, nullable=False),
    Column("inputs", Text, nullable=False),
    Column("result", Text, nullable=False),
    Column("explanation", Text, nullable=False),
    Column("breaks", BigInteger, nullable=False),
    Column("findings", BigInteger, nullable=False),
    CheckConstraint("result IN ('passed', 'breaks', 'not_run', 'not_possible')", name="result"),
    Index(None, "control_id", "period_start", "as_of"),
)

# One row per licence (or, in the older style, per customer of a product) that buyers of a marketplace registered. `licence` is
# its `l-...` tail, or `PRODUCT:CUSTOMER`. `account_id` and `tenant_id` are ours, null until somebody says whose it is.
# `starts_at` is when its agreement began, null where the marketplace did not say.
marketplace_buyers = Table(
    "marketplace_buyers",
    metadata,
    Column("adapter", Text, primary_key=True),
    Column("licence", Text, primary_key=True),
    Column("product", Text, nullable=False),
    Column("aws_account_id", Text),
    Column("licence_arn", Text),
    Column("customer_identifier", Text),
    Column("agreement_id", Text),
    Column("account_id", Text),
    Column("tenant_id", Text),
    Column("starts_at", Instant),
    Column("registered_at", Instant, nullable=False),
)

# One row per registration token that was redeemed. The token itself is a secret of the buyer: its sha256 is kept.
marketplace_registrations = Table(
    "marketplace_registrations",
    metadata,
    Column("adapter", Text, primary_key=True),
    Column("token_hash", Text, primary_key=True),
    Column("licence", Text, nullable=False),
    Column("redeemed_at", Instant, nullable=False),
)

# One row per notice of a marketplace about a licence, an agreement or a product, whatever the order they come in; never changed
# but for `handled_at`, null while what it asks for (reading entitlements anew) is still to be done. `detail` is JSON as it came.
marketplace_notices = Table(
    "marketplace_notices",
    metadata,
    Column("adapter", Text, primary_key=True),
    Column("notice_id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("licence", Text),
    Column("agreement_id", Text),
    Column("product", Text),
    Column("happened_at", Instant, nullable=False),
    Column("received_at", Instant, nullable=False),
    Column("detail", Text, nullable=False),
    Column("handled_at", Instant),
    Index("ix_marketplace_notices_licence", "adapter", "licence"),
)

# One row per (list, table): a provider's list that is kept as evidence, `path` below the folder of lists, `[start_at, end_at)` of
# the provider's clock. Append-only: another reading is another list.
provider_lists = Table(
    "provider_lists",
    metadata,
    Column("list_id", Text, primary_key=True),
    Column("adapter", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("start_at", Instant, nullable=False),
    Column("end_at", Instant, nullable=False),
    Column("read_at", Instant, nullable=False),
    Column("table_name", Text, primary_key=True),
    Column("rows", Integer, nullable=False),
    Column("path", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    CheckConstraint("source IN ('read', 'import')", name="source"),
    Index(None, "adapter", "read_at"),
)
