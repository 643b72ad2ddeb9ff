-- KEPT_SPAN: what is kept for the next time. One row per span.
SELECT span_slot.slot, asked.subscription_id, asked.tenant_id, asked.account_id, asked.terms
FROM asked_span AS asked
JOIN span_slot USING (span_id)
ORDER BY slot
