-- What two prices both charged. One row per pair of prices (lint_pair) with events that both took.
-- `amount` is, per tenant and period, the smaller of the two worths: no more than this was charged twice.
WITH shared AS (
    SELECT DISTINCT pair.plan_key, pair.price_id, pair.other_price_id, used.span_id, used.tenant_id
    FROM lint_pair AS pair
    JOIN selection AS taken ON taken.selector_set = pair.plan_key AND taken.selector_id = pair.price_id
    JOIN selection AS also
        ON also.selector_set = pair.plan_key
        AND also.selector_id = pair.other_price_id
        AND also.attributes = taken.attributes
    JOIN price ON price.plan_key = pair.plan_key AND price.price_id = pair.price_id
    JOIN lint_used AS used
        ON used.plan_key = pair.plan_key AND used.meter = price.meter AND used.attributes = taken.attributes
),
line AS (
    SELECT span_id, price_id, sum(amount) AS amount FROM worth GROUP BY ALL
)
SELECT
    shared.plan_key,
    shared.price_id,
    shared.other_price_id,
    count(DISTINCT shared.tenant_id) AS tenants,
    sum(least(coalesce(line.amount, 0), coalesce(other.amount, 0)))::DECIMAL(38, 12) AS amount
FROM shared
LEFT JOIN line ON line.span_id = shared.span_id AND line.price_id = shared.price_id
LEFT JOIN line AS other ON other.span_id = shared.span_id AND other.price_id = shared.other_price_id
GROUP BY ALL
