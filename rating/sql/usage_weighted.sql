-- What is rated where prices have weights: their cells become one quantity, each unit counted by the weight of its cell. The
-- sum is rounded once, half away from zero, to 9 decimals. A weighted price without groups always has its row. The use of a
-- cell without a weight is in unpriced_usage. One row per (span, selector, group, cell).
CREATE OR REPLACE VIEW usage_to_rate AS
SELECT usage.span_id, usage.selector_id, usage.group_key, usage.cell_key, usage.event_count, usage.quantity
FROM usage
JOIN billing_span USING (span_id)
-- Selectors that are no price by themselves, such as what was used before a period, are as metered.
LEFT JOIN price ON price.plan_key = billing_span.plan_key AND price.price_id = usage.selector_id
WHERE price.is_weighted IS NOT TRUE
UNION ALL
SELECT
    billing_span.span_id,
    price.price_id AS selector_id,
    coalesce(usage.group_key, '') AS group_key,
    '' AS cell_key,
    coalesce(sum(usage.event_count), 0)::BIGINT AS event_count,
    from_billionths(
        divide_half_away(
            coalesce(
                sum(
                    (usage.quantity * 1000000000)::HUGEINT
                    * (coalesce(cell.weight, price.default_weight, 0) * 1000000000)::HUGEINT
                ),
                0
            )::HUGEINT,
            1000000000
        )
    ) AS quantity
FROM billing_span
JOIN price ON price.plan_key = billing_span.plan_key AND price.is_weighted
LEFT JOIN usage ON usage.span_id = billing_span.span_id AND usage.selector_id = price.price_id
LEFT JOIN price_weight AS cell
    ON cell.plan_key = price.plan_key AND cell.price_id = price.price_id AND cell.cell_key = usage.cell_key
WHERE usage.span_id IS NOT NULL OR NOT price.has_groups
GROUP BY billing_span.span_id, price.price_id, coalesce(usage.group_key, '')
