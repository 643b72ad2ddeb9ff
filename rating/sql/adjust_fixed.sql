-- Fixed discounts of one turn, as rating.adjust_steps shared them out by largest remainder.
INSERT INTO charge
SELECT
    span_id,
    price_id,
    group_key,
    '' AS cell_key,
    0 AS tier,
    part,
    0 AS quantity,
    0 AS unit_price,
    -fixed_share.exact_amount AS exact_amount
FROM fixed_share
WHERE fixed_share.exact_amount <> 0
