-- What is rated: usage with the meters that prices put together. One row per (span, selector, group, cell).
CREATE OR REPLACE VIEW usage_to_rate AS
SELECT span_id, selector_id, group_key, cell_key, event_count, quantity
FROM usage_combined
