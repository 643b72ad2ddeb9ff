-- unit: unit price x quantity. Zero usage is worth zero. 1,234,567 x 0.0000125 = 15.4320875.
INSERT INTO charge
SELECT
    usage.span_id,
    usage.price_id,
    usage.group_key,
    usage.cell_key,
    tier.tier,
    'unit' AS part,
    usage.quantity,
    tier.unit_price,
    usage.quantity * tier.unit_price AS exact_amount
FROM rated_usage AS usage
JOIN price_tier AS tier USING (plan_key, price_id)
WHERE usage.price_type = 'unit' AND usage.quantity > 0
