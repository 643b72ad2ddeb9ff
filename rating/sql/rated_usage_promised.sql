-- The lines of what is owed although nothing was used: a bucket that promised something and had no use is no row of usage.
-- One row per (span, price) with a charge and without a quantity.
INSERT INTO rated_usage BY NAME
SELECT DISTINCT
    charge.span_id,
    price.plan_key,
    price.price_id,
    price.price_type,
    charge.group_key,
    charge.cell_key,
    0 AS event_count,
    0 AS converted_quantity,
    0 AS included_quantity,
    0 AS quantity,
    0 AS tiers_from,
    0 AS tiers_reached,
    true AS is_first_group
FROM charge
JOIN billing_span USING (span_id)
JOIN price ON price.plan_key = billing_span.plan_key AND price.price_id = charge.price_id
ANTI JOIN rated_usage ON rated_usage.span_id = charge.span_id AND rated_usage.price_id = charge.price_id
WHERE charge.part = 'bucket_shortfall'
