-- The one component of a true-up line: one time what is missing. One row per (span, minimum) that owes something.
INSERT INTO charge
SELECT
    span_id,
    minimum_id AS price_id,
    '' AS group_key,
    '' AS cell_key,
    1 AS tier,
    'minimum' AS part,
    1 AS quantity,
    owed AS unit_price,
    owed AS exact_amount
FROM true_up
