-- What commitments of one turn that are shared in proportion add to each line, as rating.adjust_steps dealt it out.
-- One row per (span, price, group) whose part is not zero.
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
    excess_share.exact_amount
FROM excess_share
WHERE excess_share.exact_amount <> 0
