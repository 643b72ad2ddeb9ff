-- Use that a price takes and gives no amount to: in no cell of a matrix, without a readable price of its own, without a weight,
-- or where a plan reads its tiers so: beyond the last one (tiers_end), or between two of them (gap_is_lost). One row per
-- (span, price, group, cell). It is not billed, and a finding of reconciliation: nothing is free by oversight, and nobody else
-- waits for it.
CREATE OR REPLACE TABLE unpriced_usage AS
SELECT usage.span_id, usage.price_id, usage.group_key, usage.cell_key, usage.event_count, usage.quantity
FROM rated_usage AS usage
JOIN price USING (plan_key, price_id)
ANTI JOIN charge
    ON charge.span_id = usage.span_id
    AND charge.price_id = usage.price_id
    AND charge.group_key = usage.group_key
    AND charge.cell_key = usage.cell_key
    AND charge.part <> 'included'
WHERE (price.price_type = 'matrix' AND usage.quantity > 0)
    OR (price.price_type = 'dynamic' AND usage.event_count > 0 AND (usage.quantity > 0 OR price.carries = 'amount'))
UNION ALL
SELECT usage.span_id, price.price_id, usage.group_key, usage.cell_key, usage.event_count, usage.quantity
FROM usage
JOIN billing_span USING (span_id)
JOIN price
    ON price.plan_key = billing_span.plan_key
    AND price.price_id = usage.selector_id
    AND price.is_weighted
    AND price.default_weight IS NULL
ANTI JOIN price_weight AS cell
    ON cell.plan_key = price.plan_key AND cell.price_id = price.price_id AND cell.cell_key = usage.cell_key
WHERE usage.quantity <> 0
UNION ALL
SELECT
    usage.span_id,
    usage.price_id,
    usage.group_key,
    usage.cell_key,
    usage.event_count,
    usage.converted_quantity - usage.included_quantity - CASE WHEN tier.tier IS NULL THEN 0 ELSE usage.quantity END
        AS lost_quantity
FROM rated_usage AS usage
JOIN price USING (plan_key, price_id)
LEFT JOIN price_tier AS tier
    ON tier.plan_key = usage.plan_key
    AND tier.price_id = usage.price_id
    AND holds_quantity(
        usage.tiers_reached, tier.tier, tier.lower_bound, tier.upper_bound, price.edge_is_lower,
        price.gap_is_lost AND price.price_type IN ('volume', 'stairstep')
    )
WHERE (price.tiers_end IS NOT NULL OR (price.gap_is_lost AND price.price_type IN ('volume', 'stairstep')))
    AND lost_quantity > 0
ORDER BY ALL
