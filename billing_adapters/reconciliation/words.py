"""The words in which reconciliation speaks to people: buckets, classes, bases, statuses, each with one meaning.

Enters: the words of the statement and of BREAK. Leaves: what a terminal, a page and a workbook call them.
Refuses: a second name for one thing; docs/reconciliation.md says the same.
"""

from __future__ import annotations

from billing_adapters.reconciliation.statement import MISSING, UNEXPLAINED

EQUATION_TITLES = {
    "recorded": "Capture: what producers recorded, by UTC date of use",
    "stored": "Attribution: what is stored, by UTC date of use",
    "rated_value": "Money: what the billing periods are worth, exact",
    "net": "Documents: what the charges on final documents of the period come to",
    "invoiced": "Delivery: what became of the documents",
    "confirmed": "Provider: what it confirmed, and what it says that it has",
    "provider": "Collection: what became of what the provider has",
}
BUCKETS = {
    "recorded": "recorded by producers",
    "dead_lettered": "dead letters",
    "in_flight": "in flight",
    "stored": "stored, each once",
    "voided": "voided or replaced",
    "rated": "rated",
    "duplicate": "duplicates",
    "unknown_tenant": "unrated: unknown tenant",
    "no_subscription": "unrated: no subscription",
    "unpriced_meter": "unrated: no price",
    "late_usage_refused": "unrated: recorded too late",
    "list_value": "at list prices",
    "discounts": "discounts",
    "maximums": "above maximums",
    "commitments": "commitments",
    "rated_value": "worth of the period",
    "carried": "carried by rounding",
    "not_finalised": "not invoiced: not finalised yet",
    "waiting_corrections": "not invoiced: waiting as corrections",
    "late_frozen": "not invoiced: found late, and the plan leaves its invoices as they are",
    "invoiced": "invoiced",
    "confirmed": "confirmed by the provider",
    "credits_applied": "paid from prepaid balances",
    "failed": "delivery failed",
    "not_sent": "sent by no adapter",
    "provider": "what the provider has",
    "provider_difference": "PROVIDER DIFFERENCE",
    "open": "open at the provider",
    "to_balance": "to a balance at the provider",
    "unsent": "sent by no adapter, files only",
    "pending": "delivery pending",
    "parked": "delivery parked, waits for a person",
    "waived": "delivery given up",
    "delivered": "delivered and confirmed",
    "unpaid": "not paid yet, or payment not known",
    "collected": "paid in full",
    MISSING: "MISSING",
    UNEXPLAINED: "UNEXPLAINED",
}
CLASSES = {
    "LOST": ("Lost", "cannot be billed any more"),
    "AT_RISK": ("At risk", "can still be billed until its date"),
    "OVERBILL": ("Over-billed", "the payer was or will be charged too much"),
    "TIMING": ("Timing", "clears itself by its date"),
    "DATA_QUALITY": ("Data quality", "wrong or missing data; no money yet"),
    "CONCESSION": ("Concession", "given away with a valid approval"),
    "INFO": ("Info", "worth knowing; the weakest evidence"),
}
BASES = {
    "EXACT": "exact: the figures of the control are money",
    "E1": "E1: rated again with and without it, under the tenant's own plan version; the difference",
    "E2": "E2: the tenant's realised unit price of the last closed period",
    "E3": "E3: list price",
    "E4": "E4: quantity only; nobody can say the amount",
    "": "no amount",
}
STATUSES = {
    "open": "nobody has decided about it",
    "acknowledged": "somebody works on it",
    "recovered": "somebody said that the money was recovered",
    "waived": "an approved waiver covers it until its end and ceiling",
    "expired": "the date until which it could be recovered has passed",
    "cleared": "its control ran and no longer finds it",
}
RESULTS = {
    "passed": "ran, found nothing",
    "breaks": "ran, found something",
    "not_run": "due, and could not run",
    "not_possible": "an input is not set up",
}
KPIS = {
    "capture rate": "metered, of what a witness counted of the same hours",
    "loss rate": "missing usage events, of those that producers promised",
    "reject rate": "dead letters, of the usage events that producers promised",
    "rating yield": "usage events that a price selects, of those stored",
    "unbilled rate": "subscriptions that owe something and are on no invoice, of all that owe something",
    "control coverage": "controls that ran, of those that were due",
    "statements verified": "providers whose list was read and where nothing is left to be settled, of all that are delivered to",
    "leakage": "lost and at risk, of that and what was invoiced",
    "recovered": "recovered, of what was invoiced",
    "recoverable": "at risk, of what was invoiced",
    "realisation": "invoiced, of what it is worth at list prices",
    "delivery completeness": "confirmed by providers, of what was invoiced",
    "collection rate": "paid in full, of what was delivered",
    "late usage share": "charged by closes of this period for billing periods that were over before, of all that they charged",
}
OWNERS = {
    "ENG": "application engineers",
    "OPS": "billing operators",
    "FIN": "finance",
    "SALES": "sales and customer success",
    "SEC": "security",
}


def bucket_name(bucket: str) -> str:
    """Return what a bucket is called; one that is not known is called by its own name, without underscores."""
    return BUCKETS.get(bucket, bucket.replace("_", " "))
