-- volume: all units at the price of the one tier that holds the quantity, plus that tier's flat amount.
-- Tiers are (lower_bound, upper_bound], tier 1 also holds quantity 0. The worth may fall as the quantity grows.
-- Where groups climb the tiers together the sum of all of them decides, and the first group has the flat amount.
INSERT INTO charge
WITH reached AS (
    SELECT
        usage.span_id,
        usage.price_id,
        usage.group_key,
        usage.cell_key,
        usage.quantity,
        usage.is_first_group,
        tier.tier,
        tier.unit_price,
        tier.flat_amount
    FROM rated_usage AS usage
    JOIN price_tier AS tier USING (plan_key, price_id)
    WHERE usage.price_type = 'volume'
        AND (usage.tiers_reached > tier.lower_bound OR tier.tier = 1)
        AND (usage.tiers_reached <= tier.upper_bound OR tier.upper_bound IS NULL)
)
SELECT
    span_id,
    price_id,
    group_key,
    cell_key,
    tier,
    'unit' AS part,
    quantity,
    unit_price,
    quantity * unit_price AS exact_amount
FROM reached
WHERE quantity > 0
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
FROM reached
WHERE flat_amount <> 0 AND is_first_group
