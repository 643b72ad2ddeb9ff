-- volume: all units at the price of the one tier that holds the quantity, plus that tier's flat amount.
-- Which tier holds a quantity is said by holds_quantity. The worth may fall as the quantity grows.
-- stairstep is the same without a price per unit: the units cost nothing, the tier's flat amount everything.
-- Zero usage owes the flat amount of its tier too, unless the plan reads it otherwise (flat_waits).
-- Where groups climb the tiers together the sum of all of them decides, and the first group has the flat amount.
-- A tier may have a unit price per group: 60 of a at 0.80 and 70 of b at 0.50, both in the tier that 130 reaches, are 83.
-- A tier may count packages, and limit what they cost; what the limit changes is the part `limit`.
INSERT INTO charge
WITH reached AS (
    SELECT
        usage.span_id,
        usage.price_id,
        usage.group_key,
        usage.cell_key,
        usage.quantity,
        usage.is_first_group,
        usage.quantity > 0 OR usage.tiers_reached > 0 OR NOT price.flat_waits AS flat_is_due,
        tier.tier,
        CASE
            WHEN tier.package_size IS NULL THEN usage.quantity
            ELSE packages_of(usage.quantity, tier.package_size, 'up')
        END AS charged_quantity,
        coalesce(of_group.unit_price, tier.unit_price) AS unit_price,
        tier.flat_amount,
        tier.minimum,
        tier.maximum
    FROM rated_usage AS usage
    JOIN price_tier AS tier USING (plan_key, price_id)
    JOIN price USING (plan_key, price_id)
    LEFT JOIN price_tier_group AS of_group
        ON of_group.plan_key = usage.plan_key
        AND of_group.price_id = usage.price_id
        AND of_group.tier = tier.tier
        AND of_group.group_key = usage.group_key
    WHERE usage.price_type IN ('volume', 'stairstep')
        AND holds_quantity(
            usage.tiers_reached, tier.tier, tier.lower_bound, tier.upper_bound, price.edge_is_lower, price.gap_is_lost
        )
)
SELECT
    span_id,
    price_id,
    group_key,
    cell_key,
    tier,
    'unit' AS part,
    charged_quantity,
    unit_price,
    charged_quantity * unit_price AS exact_amount
FROM reached
WHERE quantity > 0
UNION ALL
SELECT
    span_id,
    price_id,
    group_key,
    cell_key,
    tier,
    'limit' AS part,
    1 AS quantity,
    0 AS unit_price,
    limited_amount(charged_quantity * reached.unit_price, minimum, maximum)
        - charged_quantity * reached.unit_price AS limit_amount
FROM reached
WHERE reached.quantity > 0 AND limit_amount <> 0
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
WHERE flat_amount <> 0 AND is_first_group AND flat_is_due
