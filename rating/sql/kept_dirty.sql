-- The tenants of whom a span is new, gone, or on other terms than were kept. One row per tenant; all their spans are rated.
SELECT DISTINCT tenant_id
FROM kept_match
WHERE span_id IS NULL OR slot IS NULL
