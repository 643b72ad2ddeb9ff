-- The line of a true-up; it is already in minor units. One row per (span, minimum) that owes something.
INSERT INTO worth BY NAME
SELECT
    billing_span.*,
    true_up.minimum_id AS price_id,
    'minimum' AS price_type,
    true_up.position AS price_position,
    NULL AS meter,
    NULL AS unit,
    true_up.description,
    '' AS group_key,
    0 AS event_count,
    1 AS quantity,
    true_up.owed AS exact_amount,
    true_up.owed AS amount
FROM true_up
JOIN billing_span USING (span_id)
