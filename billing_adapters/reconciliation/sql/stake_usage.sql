-- Usage with what is missing (or without what is surplus). One row per (span, selector, group, cell); never below zero.
CREATE OR REPLACE TABLE usage AS
SELECT
    before.* EXCLUDE (quantity),
    (CASE
        WHEN added.added IS NULL THEN before.quantity
        ELSE greatest(before.quantity + added.added, 0)
    END)::DECIMAL(38, 9) AS quantity
FROM stake_usage AS before
LEFT JOIN stake_added AS added
    ON added.span_id = before.span_id
    AND added.selector_id = before.selector_id
    AND added.group_key = before.group_key
    AND added.cell_key = before.cell_key
