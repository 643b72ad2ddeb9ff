-- graduated: each unit at the price of its own tier. A tier covers (lower_bound, upper_bound]: a quantity exactly on
-- up_to is still in that tier. Tier 1 also holds quantity 0, so its flat amount is always due; the flat amount of a
-- later tier is due when the quantity goes beyond its lower bound, not when it reaches it. A plan may read both otherwise: lower
-- edges belong to the tier that begins there (edge_is_lower), and zero usage owes no flat amount (flat_waits).
-- graduated_percentage is the same with a percentage as unit price: 2.5 % are 0.025 per unit of money.
-- Where groups climb the tiers together a group covers (tiers_from, tiers_to] of them; alone it begins at 0.
-- A tier may count packages of its own units, and limit what they cost; what the limit changes is the part `limit`.
INSERT INTO charge
WITH met AS (
    SELECT
        usage.span_id,
        usage.price_id,
        usage.group_key,
        usage.cell_key,
        usage.tiers_from,
        usage.tiers_from + usage.quantity AS tiers_to,
        usage.is_first_group,
        usage.tiers_reached > 0 OR NOT price.flat_waits AS flat_is_due,
        price.edge_is_lower,
        tier.* EXCLUDE (plan_key, price_id)
    FROM rated_usage AS usage
    JOIN price_tier AS tier USING (plan_key, price_id)
    JOIN price USING (plan_key, price_id)
    WHERE usage.price_type IN ('graduated', 'graduated_percentage') AND NOT price.tiers_are_held
),
climbed AS (
    SELECT
        *,
        least(tiers_to, coalesce(upper_bound, tiers_to)) - greatest(lower_bound, tiers_from) AS quantity_in_tier
    FROM met
),
counted AS (
    SELECT
        *,
        CASE
            WHEN package_size IS NULL THEN quantity_in_tier
            ELSE packages_of(quantity_in_tier, package_size, 'up')
        END AS charged_quantity,
        charged_quantity * unit_price AS unlimited_amount
    FROM climbed
    WHERE quantity_in_tier > 0
),
limited AS (
    SELECT *, limited_amount(unlimited_amount, minimum, maximum) - unlimited_amount AS limit_amount
    FROM counted
    WHERE minimum IS NOT NULL OR maximum IS NOT NULL
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
    unlimited_amount AS exact_amount
FROM counted
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
    limit_amount
FROM limited
WHERE limit_amount <> 0
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
    AND flat_is_due
    AND (
        (tier = 1 AND is_first_group)
        OR (tier > 1 AND NOT edge_is_lower AND tiers_to > lower_bound AND tiers_from <= lower_bound)
        OR (tier > 1 AND edge_is_lower AND tiers_to >= lower_bound AND (tiers_from < lower_bound OR is_first_group))
    )
