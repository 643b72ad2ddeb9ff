-- Percentages off parts of what a line costs, before its limits and all discounts: part `amount_tier` is what a tier takes off the
-- money that lies in it. Nothing up to 1,000 and 10 % above: 1,300 are 1,270. A line that is worth nothing, or less, is not lowered.
-- One row per (span, price, group, tier) that lowers; the amount is negative. Source: price models, section 2.4.
INSERT INTO charge
WITH plain AS (
    SELECT
        charge.span_id,
        billing_span.plan_key,
        charge.price_id,
        charge.group_key,
        sum(charge.exact_amount)::DECIMAL(38, 21) AS exact_amount
    FROM charge
    JOIN billing_span USING (span_id)
    GROUP BY ALL
)
SELECT
    plain.span_id,
    plain.price_id,
    plain.group_key,
    '' AS cell_key,
    tier.tier,
    'amount_tier' AS part,
    1 AS quantity,
    0 AS unit_price,
    -- An amount exactly on an edge is in the tier below it whole, and the tier above has nothing of it.
    -ratio_of(
        least(plain.exact_amount, coalesce(tier.upper_bound::DECIMAL(38, 21), plain.exact_amount))
        - tier.lower_bound::DECIMAL(38, 21),
        tier.ratio
    ) AS taken_off
FROM plain
JOIN price_amount_tier AS tier USING (plan_key, price_id)
WHERE plain.exact_amount > tier.lower_bound AND tier.ratio > 0
