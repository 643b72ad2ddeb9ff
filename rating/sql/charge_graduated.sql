-- graduated: each unit at the price of its own tier. A tier covers (lower_bound, upper_bound]: a quantity exactly on
-- up_to is still in that tier. Tier 1 also holds quantity 0, so its flat amount is always due; the flat amount of a
-- later tier is due when the quantity goes beyond its lower bound, not when it reaches it.
INSERT INTO charge
SELECT
    usage.span_id,
    usage.price_id,
    usage.group_key,
    usage.cell_key,
    tier.tier,
    'unit' AS part,
    least(usage.quantity, coalesce(tier.upper_bound, usage.quantity)) - tier.lower_bound AS quantity_in_tier,
    tier.unit_price,
    quantity_in_tier * tier.unit_price AS exact_amount
FROM rated_usage AS usage
JOIN price_tier AS tier USING (plan_key, price_id)
WHERE usage.price_type = 'graduated'
    AND usage.quantity > tier.lower_bound
    AND coalesce(tier.upper_bound, usage.quantity) > tier.lower_bound
UNION ALL
SELECT
    usage.span_id,
    usage.price_id,
    usage.group_key,
    usage.cell_key,
    tier.tier,
    'flat' AS part,
    1 AS quantity_in_tier,
    tier.flat_amount,
    tier.flat_amount AS exact_amount
FROM rated_usage AS usage
JOIN price_tier AS tier USING (plan_key, price_id)
WHERE usage.price_type = 'graduated'
    AND tier.flat_amount <> 0
    AND (tier.tier = 1 OR usage.quantity > tier.lower_bound)
