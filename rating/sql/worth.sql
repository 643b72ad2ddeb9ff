-- What every line is worth now, all its usage so far together. One row per (span, price, group) that is due.
-- `exact_amount` is the sum of the line's charges, discounts and maximums included; `amount` is that sum rounded once, here and nowhere else.
CREATE OR REPLACE TABLE worth AS
WITH line AS (
    SELECT span_id, price_id, group_key, sum(converted_quantity) AS quantity, sum(event_count) AS event_count
    FROM rated_usage
    GROUP BY ALL
    UNION ALL
    -- A flat price has one component per number of units it was held with; the line shows the last of them.
    SELECT charge.span_id, charge.price_id, charge.group_key, arg_max(charge.quantity, charge.tier), 0
    FROM charge
    JOIN billing_span USING (span_id)
    JOIN price ON price.plan_key = billing_span.plan_key AND price.price_id = charge.price_id
    WHERE price.price_type = 'flat' AND charge.part = 'flat'
    GROUP BY ALL
),
summed AS (
    SELECT span_id, price_id, group_key, sum(exact_amount) AS exact_amount
    FROM charge
    GROUP BY ALL
)
SELECT
    billing_span.*,
    price.price_id,
    price.price_type,
    price.position AS price_position,
    price.meter,
    price.unit,
    price.description,
    line.group_key,
    line.event_count,
    line.quantity,
    coalesce(summed.exact_amount, 0)::DECIMAL(38, 21) AS exact_amount,
    round_amount(coalesce(summed.exact_amount, 0)::DECIMAL(38, 21), currency.minor_per_major, currency.minor_unit) AS amount
FROM line
JOIN billing_span USING (span_id)
JOIN price ON price.plan_key = billing_span.plan_key AND price.price_id = line.price_id
JOIN currency ON currency.currency = billing_span.currency
LEFT JOIN summed
    ON summed.span_id = line.span_id AND summed.price_id = line.price_id AND summed.group_key = line.group_key
