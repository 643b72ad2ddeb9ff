-- flat, where a flat amount needs more than two lengths of time: days as a basis, units, a free trial (rating.flat_parts).
-- One row per number of units that the price was held with in the period, each due like a flat amount of its own.
INSERT INTO charge
SELECT
    billing_span.span_id,
    price.price_id,
    '' AS group_key,
    '' AS cell_key,
    flat_part.part_number AS tier,
    'flat' AS part,
    flat_part.quantity,
    flat_part.amount AS unit_price,
    flat_part.exact_amount
FROM flat_part
JOIN billing_span USING (span_id)
JOIN price ON price.plan_key = billing_span.plan_key AND price.price_id = flat_part.price_id
WHERE (price.due = 'start' AND flat_part.starts_at <= $as_of)
    OR (price.due = 'end' AND billing_span.period_end <= $as_of)
