-- graduated: each unit at the price of its own tier. A tier covers (lower_bound, upper_bound]: a quantity exactly on
-- up_to is still in that tier. Tier 1 also holds quantity 0, so its flat amount is always due; the flat amount of a
-- later tier is due when the quantity goes beyond its lower bound, not when it reaches it.
-- Where groups climb the tiers together a group covers (tiers_from, tiers_to] of them; alone it begins at 0.
INSERT INTO charge
WITH climbed AS (
    SELECT
        usage.span_id,
        usage.price_id,
        usage.group_key,
        usage.cell_key,
        usage.tiers_from,
        usage.tiers_from + usage.quantity AS tiers_to,
        usage.is_first_group,
        tier.tier,
        tier.lower_bound,
        least(tiers_to, coalesce(tier.upper_bound, tiers_to)) - greatest(tier.lower_bound, usage.tiers_from)
            AS quantity_in_tier,
        tier.unit_price,
        tier.flat_amount
    FROM rated_usage AS usage
    JOIN price_tier AS tier USING (plan_key, price_id)
    WHERE usage.price_type = 'graduated'
)
SELECT
    span_id,
    price_id,
    group_key,
    cell_key,
    tier,
    'unit' AS part,
    quantity_in_tier,
    unit_price,
    quantity_in_tier * unit_price AS exact_amount
FROM climbed
WHERE quantity_in_tier > 0
UNION ALL
SELECT
    span_id,
    price_id,
    group_key,
    cell_key,
    tier,
    'flat' AS part,
    1 AS quantity,
    flat_amount,
    flat_amount AS exact_amount
FROM climbed
WHERE flat_amount <> 0
    AND ((tier = 1 AND is_first_group) OR (tiers_to > lower_bound AND tiers_from <= lower_bound AND tier > 1))
