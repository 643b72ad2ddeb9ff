-- included: the units that cost nothing, so that the components of a line add up to its quantity. Before all tiers: tier 0.
INSERT INTO charge
SELECT
    span_id,
    price_id,
    group_key,
    cell_key,
    0 AS tier,
    'included' AS part,
    included_quantity,
    0 AS unit_price,
    0 AS exact_amount
FROM rated_usage
WHERE included_quantity > 0
