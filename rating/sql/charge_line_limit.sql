-- What a line costs at least and at most: part `line_limit` is what that adds or takes off. A line is one group, and is there when
-- it has a quantity. In a part of a billing period the minimum may be its share (line_minimum_share).
-- One row per (span, price, group) that is changed. 4, 40 and 400 within 10 and 100 are 150. Source: price models, section 2.4.
INSERT INTO charge
WITH limited_line AS (
    SELECT DISTINCT
        due.span_id,
        due.price_id,
        due.group_key,
        coalesce(share.minimum, price.line_minimum::DECIMAL(38, 21)) AS minimum,
        price.line_maximum AS maximum
    FROM rated_usage AS due
    JOIN price USING (plan_key, price_id)
    LEFT JOIN line_minimum_share AS share ON share.span_id = due.span_id AND share.price_id = due.price_id
    WHERE price.line_minimum IS NOT NULL OR price.line_maximum IS NOT NULL
),
summed AS (
    SELECT
        line.span_id,
        line.price_id,
        line.group_key,
        line.minimum,
        line.maximum,
        coalesce(sum(charge.exact_amount), 0)::DECIMAL(38, 21) AS plain_amount
    FROM limited_line AS line
    LEFT JOIN charge USING (span_id, price_id, group_key)
    GROUP BY ALL
)
SELECT
    span_id,
    price_id,
    group_key,
    '' AS cell_key,
    0 AS tier,
    'line_limit' AS part,
    1 AS quantity,
    0 AS unit_price,
    limited_amount(plain_amount, minimum, maximum) - plain_amount AS limit_amount
FROM summed
WHERE limit_amount <> 0
