-- Usage: how much of what was used. One row per (span, selector, group, cell); units of the meter, decimal(38, 9), exact.
-- A selector without group keys, cells and buckets always has its row, with quantity 0 when there was no event; others
-- have rows only for what has an event or something carried. Max, min and last of nothing are 0. The meter's rounding
-- comes last, on the aggregate. Negative results stay visible here.
CREATE OR REPLACE TABLE usage AS
SELECT
    span.span_id,
    selector.selector_id,
    selector.meter,
    coalesce(answer.group_key, '') AS group_key,
    coalesce(answer.cell_key, '') AS cell_key,
    coalesce(answer.event_count, 0)::BIGINT AS event_count,
    coalesce(round_quantity(answer.quantity, selector.rounding, selector.rounding_step), 0)::DECIMAL(38, 9) AS quantity
FROM span
JOIN selector USING (selector_set)
LEFT JOIN answer ON answer.span_id = span.span_id AND answer.selector_id = selector.selector_id
WHERE answer.event_count > 0
    OR answer.quantity <> 0
    OR (len(selector.group_attributes) = 0 AND len(selector.cell_attributes) = 0 AND selector.bucket IS NULL)
