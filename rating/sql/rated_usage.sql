-- The quantities that are priced. One row per (span, price, group, cell) of a metered price that is due.
-- A quantity below zero is rated as zero; the negative quantity stays visible in `usage`.
-- Due: `any` time; only when the period is over (`end`), for prices whose worth may fall as usage grows.
CREATE OR REPLACE TABLE rated_usage AS
SELECT
    usage.span_id,
    price.plan_key,
    price.price_id,
    price.price_type,
    usage.group_key,
    usage.cell_key,
    usage.event_count,
    greatest(usage.quantity, 0)::DECIMAL(38, 9) AS quantity
FROM usage
JOIN billing_span USING (span_id)
JOIN price ON price.plan_key = billing_span.plan_key AND price.price_id = usage.selector_id
WHERE price.due = 'any' OR (price.due = 'end' AND billing_span.period_end <= $as_of)
