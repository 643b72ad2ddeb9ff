-- flat: an amount for the billing period, whatever was used.
-- In advance it is due once the service began, in arrears once the period is over. The share of a partial service
-- period is worked out in rating.proration, as an exact ratio of instants, and joined here by its two lengths.
-- A span whose flat amount needs more than the two lengths has rows in flat_part instead; see charge_flat_part.
INSERT INTO charge
SELECT
    billing_span.span_id,
    price.price_id,
    '' AS group_key,
    '' AS cell_key,
    1 AS tier,
    'flat' AS part,
    1 AS quantity,
    flat_amount.amount AS unit_price,
    flat_amount.exact_amount
FROM billing_span
JOIN price USING (plan_key)
JOIN flat_amount
    ON flat_amount.plan_key = price.plan_key
    AND flat_amount.price_id = price.price_id
    AND flat_amount.service_us = epoch_us(billing_span.service_end) - epoch_us(billing_span.service_start)
    AND flat_amount.period_us = epoch_us(billing_span.period_end) - epoch_us(billing_span.period_start)
ANTI JOIN flat_part ON flat_part.span_id = billing_span.span_id AND flat_part.price_id = price.price_id
WHERE (price.due = 'start' AND billing_span.service_start <= $as_of)
    OR (price.due = 'end' AND billing_span.period_end <= $as_of)
