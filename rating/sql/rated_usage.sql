-- The quantities that are priced. One row per (span, price, group, cell) of a metered price that is due.
-- A quantity below zero is rated as zero; the negative quantity stays visible in `usage`. What is left is converted to the
-- unit of the price, which rounds the cumulative quantity, once; then the included units are taken off. What a line shows
-- is `converted_quantity`; what is priced is `quantity`. Source: price models, section 3: convert, then included.
-- Due: `any` time; only when the period is over (`end`), for prices whose worth may fall as usage grows.
-- Prices with something in common between their groups (`is_pooled`) are in rated_usage_pooled.
CREATE OR REPLACE TABLE rated_usage AS
WITH converted AS (
    SELECT
        usage.span_id,
        price.plan_key,
        price.price_id,
        price.price_type,
        usage.group_key,
        usage.cell_key,
        usage.event_count,
        convert_quantity(
            greatest(usage.quantity, 0)::DECIMAL(38, 9),
            price.convert_numerator::HUGEINT,
            price.convert_denominator::HUGEINT,
            price.convert_step::HUGEINT,
            price.convert_rounding
        ) AS converted_quantity,
        coalesce(price.included, 0) AS included,
        price.tiers_end
    FROM usage_to_rate AS usage
    JOIN billing_span USING (span_id)
    JOIN price ON price.plan_key = billing_span.plan_key AND price.price_id = usage.selector_id
    WHERE (price.due = 'any' OR (price.due = 'end' AND billing_span.period_end <= $as_of))
        AND NOT price.is_pooled
),
taken_off AS (
    SELECT * EXCLUDE (included), least(converted_quantity, included)::DECIMAL(38, 9) AS included_quantity
    FROM converted
)
SELECT
    * EXCLUDE (tiers_end),
    -- Beyond the end of tiers that end nothing is priced; what is left of the quantity is in unpriced_usage.
    least(converted_quantity - included_quantity, coalesce(tiers_end, converted_quantity))::DECIMAL(38, 9) AS quantity,
    -- The tiers are climbed from here, and this is the quantity that reaches its tier: that of the group alone.
    0::DECIMAL(38, 9) AS tiers_from,
    least(converted_quantity - included_quantity, coalesce(tiers_end, converted_quantity))::DECIMAL(38, 9)
        AS tiers_reached,
    true AS is_first_group
FROM taken_off
