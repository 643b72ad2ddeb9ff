-- percent_of: a percentage of what other prices cost together, before discounts, raised to its minimum or cut to its maximum; in a
-- part of a billing period the minimum may be its share. Due once the service began; it follows the prices that it is of.
-- 10 % of 240 are 24, and 30 with a minimum of 30. One row per (span, price, part). Source: price models, section 2.4.
INSERT INTO charge
WITH based AS (
    SELECT
        billing_span.span_id,
        price.price_id,
        price.of_others,
        coalesce(share.minimum, price.line_minimum::DECIMAL(38, 21)) AS minimum,
        price.line_maximum AS maximum,
        coalesce(sum(charge.exact_amount), 0)::DECIMAL(38, 21) AS base_amount
    FROM billing_span
    JOIN price ON price.plan_key = billing_span.plan_key AND price.price_type = 'percent_of'
    JOIN price_base AS base ON base.plan_key = price.plan_key AND base.price_id = price.price_id
    LEFT JOIN charge ON charge.span_id = billing_span.span_id AND charge.price_id = base.base_price_id
    LEFT JOIN line_minimum_share AS share ON share.span_id = billing_span.span_id AND share.price_id = price.price_id
    WHERE billing_span.service_start <= $as_of
    GROUP BY ALL
),
worked_out AS (
    SELECT *, ratio_of(base_amount, of_others) AS plain_amount
    FROM based
)
SELECT
    span_id,
    price_id,
    '' AS group_key,
    '' AS cell_key,
    1 AS tier,
    'percent_of' AS part,
    1 AS quantity,
    0 AS unit_price,
    plain_amount AS exact_amount
FROM worked_out
UNION ALL
SELECT
    span_id,
    price_id,
    '' AS group_key,
    '' AS cell_key,
    0 AS tier,
    'line_limit' AS part,
    1 AS quantity,
    0 AS unit_price,
    limited_amount(plain_amount, minimum, maximum) - plain_amount AS limit_amount
FROM worked_out
WHERE limit_amount <> 0
