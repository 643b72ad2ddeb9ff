"""The files that finance receives, column by column.

Enters: nothing. Leaves: the declared shapes, which tables, formats, manifest, workbooks and docs/files.md follow.
Refuses: columns that could never be filled. Source: finance files, section 1. What is not here, for want of its data or
because it changes after a run: docs/files.md says which, and why.

Words: a `billing period` is the span that usage is billed in, a `service period` the part of it in which the
subscription ran, the `discovered period` of a line the period whose invoice carries it: for a correction a later one.
All ends are open. Times are UTC; the register's and the discovered periods are days of the calendar, which each plan
reads in its own time zone.
"""

from __future__ import annotations

from billing_adapters.file_adapter.columns import Column, FileShape

_RUN = Column("run_id", "text", "the published run; the same in every file of one folder")
_INVOICE = Column("invoice_id", "text", "the document, drafts too; the same in every file")
_NUMBER = Column("number", "text", "the number on paper, without gaps per series; drafts have none", nullable=True)
_LINE = Column("line_id", "text", "the invoice line; `tallybook explain LINE_ID` takes it apart")
_TENANT = Column("tenant_id", "text", "who used it")
_ACCOUNT = Column("account_id", "text", "the billing account, who pays")
_CURRENCY = Column("currency", "text", "the currency of all amounts of the row, by ISO 4217")
_ATTRIBUTES = Column("attributes", "text", "the group of the line as JSON, where the price groups usage", nullable=True)

_LINE_TERMS = (
    _ACCOUNT,
    _TENANT,
    Column("subscription_id", "text", "the subscription that sold it"),
    Column("plan", "text", "the price plan"),
    Column("plan_version", "integer", "the version of the plan, whose terms never change"),
    Column("price_id", "text", "the price of the plan, or the minimum that was missed"),
    Column("price_type", "text", "how the price counts: flat, unit, graduated, volume, package and others"),
    Column("meter", "text", "what was counted; fees have none", nullable=True),
    Column("unit", "text", "what one unit of the meter is called", nullable=True),
    _ATTRIBUTES,
)
_PERIODS = (
    Column("billing_period_start", "instant", "the first instant of the billing period that the row belongs to"),
    Column("billing_period_end", "instant", "the first instant after that billing period"),
    Column("service_period_start", "instant", "the first instant of it in which the subscription ran"),
    Column("service_period_end", "instant", "the first instant after that service"),
)
_DISCOVERED = (
    Column("discovered_period_start", "date", "the first day of the period whose document carries it"),
    Column("discovered_period_end", "date", "the first day after that period"),
)

INVOICE_REGISTER = FileShape(
    name="invoice_register",
    grain="one row per document; a draft is a pro forma and has no number",
    columns=(
        _RUN,
        Column("entity", "text", "the seller in whose name it is issued", nullable=True),
        Column("series", "text", "the series that the number counts in", nullable=True),
        _NUMBER,
        Column("document_type", "text", "invoice, credit note, supplementary invoice, or pro forma"),
        Column("corrects_numbers", "text", "JSON list of the documents whose periods it corrects", nullable=True),
        _INVOICE,
        Column(
            "status", "text", "final; void, which is taken back whole; or draft, which books nothing and may change"
        ),
        Column("issue_date", "date", "the day of issue, UTC"),
        Column("issued_at", "instant", "the instant of the close that made it"),
        Column(
            "due_date", "date", "the day by which it is to be paid, where terms of payment are known", nullable=True
        ),
        Column("billing_period_start", "date", "the first day of the period that was invoiced"),
        Column("billing_period_end", "date", "the first day after that period"),
        Column(
            "service_period_start", "instant", "the first instant of service of all its lines, corrections included"
        ),
        Column("service_period_end", "instant", "the first instant after the service of all its lines"),
        _ACCOUNT,
        Column("account_name", "text", "the name on the invoice", nullable=True),
        Column("account_vat_id", "text", "the number under which the account pays tax", nullable=True),
        Column("account_country", "text", "the country of the account's address, by ISO 3166", nullable=True),
        Column("purchase_order", "text", "the account's own reference", nullable=True),
        _CURRENCY,
        Column("amount_net", "amount", "the sum of its lines without tax"),
        Column("amount_tax", "amount", "the sum of its taxes; zero where the catalog names none"),
        Column("amount_gross", "amount", "net and tax together"),
        Column("amount_prepaid", "amount", "what prepaid balances paid of it, or, negative, got back"),
        Column("amount_payable", "amount", "gross less prepaid: what is to be paid, or, negative, what is owed back"),
        Column("amount_voided", "amount", "the gross that a void document was issued for; its other amounts are zero"),
        Column("voided_at", "instant", "when it was voided", nullable=True),
        Column("void_reason", "text", "why it was voided", nullable=True),
        Column("lines", "integer", "how many lines it has in invoice_lines; a void document has none there"),
        Column("plan_versions", "text", "JSON list of the plan versions that it rates by"),
        Column("close_id", "text", "the close that it follows from"),
        Column("snapshot_id", "text", "the usage events that it was rated from, so that it can be recomputed"),
        Column("catalog_revision", "integer", "the catalog that it was rated by"),
        Column("content_hash", "text", "the sha256 of its document; `tallybook verify` recomputes it"),
    ),
    key=("number", "account_id", "currency", "invoice_id"),
    control_totals=tuple(
        (name, "currency") for name in ("amount_net", "amount_tax", "amount_gross", "amount_prepaid", "amount_payable")
    ),
)
INVOICE_LINES = FileShape(
    name="invoice_lines",
    grain="one row per invoice line",
    columns=(
        _RUN,
        _INVOICE,
        _NUMBER,
        Column("position", "integer", "its place on the document, from 1"),
        _LINE,
        Column("kind", "text", "usage, flat (a fee), minimum, or correction of an earlier period"),
        *_LINE_TERMS,
        Column("description", "text", "what paper says of it", nullable=True),
        Column("quantity", "quantity", "the units that this document books"),
        Column("list_amount", "exact_amount", "the exact amount before discounts"),
        Column("discount_ids", "text", "JSON list of the discounts that lowered it", nullable=True),
        Column("discount_amount", "exact_amount", "what discounts took off, unrounded; negative, or zero"),
        Column("exact_amount", "exact_amount", "the exact amount, before the one rounding of the line"),
        Column("amount", "amount", "the amount on paper: worth of the period, rounded, minus what was booked before"),
        _CURRENCY,
        Column("net_amount", "amount", "the amount without tax; differs from it only where prices include tax"),
        Column("tax_code", "text", "the tax code of its price", nullable=True),
        Column("taxes", "text", "JSON list of its taxes: name, percent, amount", nullable=True),
        Column("tax_amount", "amount", "the sum of its taxes"),
        Column("revenue_account", "text", "the account of the general ledger that it is earned on", nullable=True),
        Column("prepaid_amount", "amount", "what prepaid balances paid of it, or, negative, got back"),
        Column("cumulative_quantity", "quantity", "the units of the whole billing period, all documents together"),
        Column("cumulative_exact_amount", "exact_amount", "the exact worth of the whole billing period"),
        Column("cumulative_amount", "amount", "the worth of the whole billing period, rounded"),
        *_PERIODS,
        *_DISCOVERED,
    ),
    key=("number", "invoice_id", "position"),
    control_totals=(
        ("quantity", "meter"),
        ("amount", "currency"),
        ("net_amount", "currency"),
        ("tax_amount", "currency"),
        ("exact_amount", "currency"),
    ),
)
RATED_CHANGES = FileShape(
    name="rated_changes",
    grain="one row per line of a correction: what an earlier period was worth before and is worth now",
    columns=(
        _RUN,
        _INVOICE,
        _NUMBER,
        Column("position", "integer", "its place on the document, from 1"),
        _LINE,
        *_LINE_TERMS,
        Column("quantity_before", "quantity", "the units of its billing period that earlier documents billed"),
        Column("quantity_after", "quantity", "the units of its billing period now"),
        Column("quantity_change", "quantity", "the second less the first, which the line books"),
        Column("amount_before", "amount", "what its billing period was worth before, as earlier documents billed it"),
        Column("amount_after", "amount", "what its billing period is worth now"),
        Column("amount_change", "amount", "the second less the first: the amount of the line"),
        _CURRENCY,
        Column(
            "reason",
            "text",
            "new (nothing stood billed of it), usage (other units), or terms (the same units: another plan or price, or "
            "what a minimum or discount looks at)",
        ),
        Column("before_number", "text", "the last document that billed it before, a void one too", nullable=True),
        Column("before_snapshot_id", "text", "the usage events that it was rated from then", nullable=True),
        Column("snapshot_id", "text", "the usage events that it was rated from, so that it can be recomputed"),
        *_PERIODS,
        *_DISCOVERED,
    ),
    key=("number", "invoice_id", "position"),
    control_totals=(("quantity_change", "meter"), ("amount_change", "currency")),
)
CHARGES = FileShape(
    name="charges",
    grain="one row per component of an invoice line: the part of it in one tier at one unit price, or a flat amount",
    columns=(
        _RUN,
        _INVOICE,
        _LINE,
        Column("position", "integer", "its place in the line, from 1"),
        _TENANT,
        Column("price_id", "text", "the price of the line"),
        Column("meter", "text", "what was counted; fees have none", nullable=True),
        Column(
            "cell", "text", "the cell of a price that has several: of a matrix, of an event, of time", nullable=True
        ),
        Column("tier", "integer", "the tier, from 1; 0 for what is of no tier"),
        Column("part", "text", "what it is: unit, flat, included, discount:ID, maximum:ID and others"),
        # Packages for a package price, 1 for a flat amount: so there is no control total of it per meter.
        Column("quantity", "quantity", "units, packages, or 1 for a fixed amount"),
        Column("unit_price", "unit_price", "the price of one, all digits"),
        Column("exact_amount", "exact_amount", "what it adds to the line, unrounded"),
        _CURRENCY,
    ),
    key=("invoice_id", "line_id", "position"),
    control_totals=(("exact_amount", "currency"),),
)
USAGE = FileShape(
    name="usage",
    grain="one row per tenant, meter, subscription, billing period, price and group",
    columns=(
        _RUN,
        _TENANT,
        Column("meter", "text", "what was counted"),
        Column("unit", "text", "what one unit of the meter is called"),
        _ACCOUNT,
        Column("subscription_id", "text", "the subscription under which it was used"),
        Column("plan", "text", "the price plan"),
        Column("plan_version", "integer", "the version of the plan"),
        Column("price_id", "text", "the price that counts it"),
        _ATTRIBUTES,
        *_PERIODS,
        Column("event_count", "integer", "how many usage events count"),
        Column("quantity", "quantity", "the units of the meter, before any price"),
    ),
    key=("tenant_id", "meter", "subscription_id", "billing_period_start", "price_id", "attributes"),
    control_totals=(("quantity", "meter"),),
)
PREPAID_BURNS = FileShape(
    name="prepaid_burns",
    grain="one row per line and prepaid balance: what the balance paid of the line",
    columns=(
        _RUN,
        _INVOICE,
        _NUMBER,
        Column("position", "integer", "its place on the document, from 1"),
        _LINE,
        _ACCOUNT,
        Column("balance_id", "text", "the prepaid balance"),
        Column("amount", "amount", "what it paid, or, negative, what a credit gave back to it"),
        Column("paid_amount", "amount", "the part of it that had been paid for; the rest was granted for nothing"),
        _CURRENCY,
    ),
    key=("number", "invoice_id", "position"),
    control_totals=(("amount", "currency"), ("paid_amount", "currency")),
)
_BATCH = Column("batch_id", "text", "the close whose documents it posts; import a batch once")
_ENTRY_DATE = Column("date", "date", "the day on which it is posted")
_ENTRY_PERIOD = Column("period", "text", "the month of that day, such as 2026-10")
_LEDGER = Column("account", "text", "the account of the general ledger; called by its role where the catalog maps none")
_ENTITY = Column("entity", "text", "the seller whose books they are", nullable=True)
_DEPARTMENT = Column("department", "text", "the cost centre of the ledger account", nullable=True)
SETTLEMENTS = FileShape(
    name="settlements",
    grain="one row per payment, refund or write-off that was booked since the close before",
    columns=(
        _RUN,
        Column("settlement_id", "text", "the same whenever it is published"),
        Column("batch_id", "text", "the close whose run posts it"),
        Column("kind", "text", "payment, refund (what was paid back), or write_off"),
        _ENTRY_DATE,
        _INVOICE,
        _NUMBER,
        _ACCOUNT,
        Column(
            "amount",
            "amount",
            "what it takes off what is owed; negative for refunds, and for payments that were taken back",
        ),
        _CURRENCY,
        Column("paid_at", "instant", "when it was paid, as the provider or the bank says", nullable=True),
        Column("read_at", "instant", "when we learnt of it"),
        Column("adapter", "text", "who said so: stripe, or files for a file of payments"),
        Column("provider_id", "text", "its invoice there, or the id of the payment"),
    ),
    key=("date", "settlement_id"),
    control_totals=(("amount", "currency"),),
)
JOURNAL_ENTRIES = FileShape(
    name="journal_entries",
    grain="one row per leg of an entry of a final or void document or a settlement; debits equal credits per entry and currency",
    columns=(
        _RUN,
        _BATCH,
        Column(
            "entry_id",
            "text",
            "a hash of what it posts, kind and day: imported twice it changes nothing",
        ),
        Column("line_no", "integer", "the leg in its entry, from 1"),
        Column(
            "kind",
            "text",
            "document, accrual (before its issue), release (after it), void, payment, refund, write_off",
        ),
        _ENTRY_DATE,
        _ENTRY_PERIOD,
        Column(
            "role", "text", "what is posted, whatever account it is mapped to: receivables, revenue, tax and others"
        ),
        _LEDGER,
        Column("debit", "amount", "the amount, if the leg is a debit, else zero"),
        Column("credit", "amount", "the amount, if the leg is a credit, else zero"),
        _CURRENCY,
        _ENTITY,
        _DEPARTMENT,
        _ACCOUNT,
        _INVOICE,
        Column("number", "text", "the number of the document"),
        Column("line_id", "text", "the invoice line, where the leg is of one", nullable=True),
        Column("product", "text", "the price, tax or prepaid balance that it is of", nullable=True),
        Column("description", "text", "a sentence for the ledger", nullable=True),
        Column(
            "reverses_entry_id",
            "text",
            "the entry that this leg takes back: an accrual by its document, a document by its void",
            nullable=True,
        ),
    ),
    key=("date", "entry_id", "line_no"),
    control_totals=(("debit", "currency"), ("credit", "currency")),
)
JOURNAL_SUMMARY = FileShape(
    name="journal_summary",
    grain="one row per close, day, entity, currency, account, department and side: the journal entries added up",
    columns=(
        _RUN,
        _BATCH,
        Column(
            "entry_id", "text", "a hash of close, day, entity and currency; not to be imported beside journal_entries"
        ),
        Column("line_no", "integer", "the row in its entry, from 1"),
        _ENTRY_DATE,
        _ENTRY_PERIOD,
        _LEDGER,
        Column("debit", "amount", "the sum of its debits"),
        Column("credit", "amount", "the sum of its credits"),
        _CURRENCY,
        _ENTITY,
        _DEPARTMENT,
        Column("legs", "integer", "how many legs of journal_entries it adds up"),
    ),
    key=("date", "entry_id", "line_no"),
    control_totals=(("debit", "currency"), ("credit", "currency")),
)
_ROLLED = (_RUN, _ACCOUNT, _CURRENCY, Column("period", "text", "the month that is rolled, such as 2026-10"))
_OPENING = Column("opening", "amount", "what was open when the month began; the closing of the month before")
_CLOSING = Column("closing", "amount", "what is open at the end of the month: the opening and all movements")
_OF_THIS_RUN = Column(
    "of_this_run", "amount", "the part of the movements that this run posts; the rest is of earlier runs"
)
RECEIVABLES_ROLL_FORWARD = FileShape(
    name="receivables_roll_forward",
    grain="one row per account, currency and month: what is asked for and not yet settled",
    columns=(
        *_ROLLED,
        _OPENING,
        Column("invoiced", "amount", "what documents issued in the month ask for"),
        Column("credited", "amount", "what documents issued in the month give back, so negative"),
        Column("voided", "amount", "what voids in the month take back of both"),
        Column("paid", "amount", "what was paid in the month, so mostly negative"),
        Column("refunded", "amount", "what was paid back in the month without a document"),
        Column("written_off", "amount", "what was written off in the month, so mostly negative"),
        _CLOSING,
        Column(
            "unapplied", "amount", "of the closing, what is below zero per document: credit, and what was paid too much"
        ),
        Column("not_due", "amount", "of the closing, what may still be paid in time"),
        Column("overdue_1_30", "amount", "of the closing, what is 1 to 30 days late at the end of the month"),
        Column("overdue_31_60", "amount", "of the closing, what is 31 to 60 days late"),
        Column("overdue_61_90", "amount", "of the closing, what is 61 to 90 days late"),
        Column("overdue_above_90", "amount", "of the closing, what is more than 90 days late"),
        _OF_THIS_RUN,
    ),
    key=("account_id", "currency", "period"),
    control_totals=(
        ("invoiced", "currency"),
        ("credited", "currency"),
        ("paid", "currency"),
        ("written_off", "currency"),
    ),
)
UNBILLED_ROLL_FORWARD = FileShape(
    name="unbilled_roll_forward",
    grain="one row per account, currency and month: what is earned and not yet invoiced",
    columns=(
        *_ROLLED,
        _OPENING,
        Column("accrued", "amount", "earned in the month, and invoiced in a later one; negative for credits"),
        Column("invoiced", "amount", "what documents issued in the month take back of it, so mostly negative"),
        _CLOSING,
        _OF_THIS_RUN,
    ),
    key=("account_id", "currency", "period"),
    control_totals=(("accrued", "currency"), ("invoiced", "currency")),
)
DEFERRED_ROLL_FORWARD = FileShape(
    name="deferred_roll_forward",
    grain="one row per account, currency and month: what is invoiced and not yet earned",
    columns=(
        *_ROLLED,
        _OPENING,
        Column("deferred", "amount", "what documents issued in the month bill of later months"),
        Column("released", "amount", "what is earned in the month of earlier documents, so mostly negative"),
        Column("voided", "amount", "what voids take back of both in the month"),
        _CLOSING,
        _OF_THIS_RUN,
    ),
    key=("account_id", "currency", "period"),
    control_totals=(("deferred", "currency"), ("released", "currency"), ("voided", "currency")),
)
PREPAID_ROLL_FORWARD = FileShape(
    name="prepaid_roll_forward",
    grain="one row per prepaid balance and month: what was granted, what of it was used, what is left",
    columns=(
        _RUN,
        Column("balance_id", "text", "the prepaid balance"),
        *_ROLLED[1:],
        _OPENING,
        Column("granted", "amount", "what became effective in the month"),
        Column("burned", "amount", "what documents issued in the month burned, so mostly negative"),
        Column("given_back", "amount", "what voids in the month gave back"),
        Column(
            "expired",
            "amount",
            "what was left at its end, so negative; positive where a late document burned it after all",
        ),
        _CLOSING,
        Column("used_by_this_run", "amount", "what documents of this run burned, less what their voids gave back"),
    ),
    key=("balance_id", "period"),
    control_totals=(("granted", "currency"), ("burned", "currency"), ("expired", "currency")),
)
TIE_OUTS = FileShape(
    name="tie_outs",
    grain="one row per pair of totals that must agree, and currency",
    columns=(
        _RUN,
        Column("control_id", "text", "the comparison"),
        Column("source_a", "text", "the file and column of the first total"),
        Column("total_a", "exact_amount", "the first total"),
        Column("source_b", "text", "the file and column of the second total"),
        Column("total_b", "exact_amount", "the second total"),
        Column("difference", "exact_amount", "the first less the second; anything but zero is to be explained"),
        _CURRENCY,
    ),
    key=("control_id", "currency"),
    control_totals=(("difference", "currency"),),
)
USAGE_DETAIL = FileShape(
    name="usage_detail",
    grain="one row per usage event and price that counts it, and one row per event that none counts; only on request, as Parquet",
    columns=(
        _RUN,
        Column("producer_id", "text", "who recorded it"),
        Column("segment", "integer", "the segment of the producer's journal"),
        Column("row", "integer", "its row in the segment; with the two before it, the event's own name"),
        Column("idempotency_key", "text", "the caller's identity for it", nullable=True),
        Column("tenant_id", "text", "who used it; of a dead letter, as far as it could be read", nullable=True),
        Column("meter", "text", "what was counted; fees have none", nullable=True),
        Column("attributes", "text", "its attributes as JSON", nullable=True),
        Column("quantity", "quantity", "units of the meter, exact", nullable=True),
        Column("event_time", "instant", "when it was used", nullable=True),
        Column("recorded_at", "instant", "when we learnt of it"),
        Column(
            "disposition",
            "text",
            "billed, included (its price comes to nothing), unpriced, duplicate, voided, late, dead_lettered",
        ),
        Column("reason", "text", "why, where the disposition alone does not say it", nullable=True),
        Column("account_id", "text", "who pays for it", nullable=True),
        Column("subscription_id", "text", "the subscription under which it counts", nullable=True),
        Column("price_id", "text", "the price that counts it", nullable=True),
        Column(
            "billing_period_start",
            "instant",
            "the first instant of the billing period that it counts in",
            nullable=True,
        ),
        Column(
            "line_id",
            "text",
            "the line of this run that bills it; none where the run books nothing new of its price",
            nullable=True,
        ),
    ),
    key=("tenant_id", "event_time", "producer_id", "segment", "row", "price_id", "subscription_id"),
    control_totals=(("quantity", "meter"),),
)
# Every file of a run in every format; usage_detail is by itself.
SHAPES = (
    INVOICE_REGISTER,
    INVOICE_LINES,
    RATED_CHANGES,
    CHARGES,
    USAGE,
    PREPAID_BURNS,
    SETTLEMENTS,
    JOURNAL_ENTRIES,
    JOURNAL_SUMMARY,
    RECEIVABLES_ROLL_FORWARD,
    UNBILLED_ROLL_FORWARD,
    DEFERRED_ROLL_FORWARD,
    PREPAID_ROLL_FORWARD,
    TIE_OUTS,
)
