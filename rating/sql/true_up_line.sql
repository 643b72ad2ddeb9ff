-- The line of a true-up; it is already in minor units. One row per (span, minimum) that owes something.
INSERT INTO worth_line
SELECT
    span_id,
    minimum_id AS price_id,
    '' AS group_key,
    0 AS event_count,
    1 AS quantity,
    owed AS exact_amount,
    owed AS amount
FROM true_up
