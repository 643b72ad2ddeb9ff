-- What is rated: usage, as it was metered. One row per (span, selector, group, cell).
CREATE OR REPLACE VIEW usage_to_rate AS
SELECT span_id, selector_id, group_key, cell_key, event_count, quantity
FROM usage
