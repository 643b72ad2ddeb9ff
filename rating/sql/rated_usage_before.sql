-- The place in the tiers of prices whose tiers go on since the plan began: group by group they are climbed from what was used
-- before this billing period. 100@1, open@0.5: 80 and then 80 are 80, and then 20 + 30. The first tier's flat amount belongs to
-- the first billing period (of a group: with use), those of later tiers to the period in which they are entered.
-- Source: price models, section 2.4.
UPDATE rated_usage
SET
    quantity = climbed.priced_quantity,
    tiers_from = climbed.used_before,
    tiers_reached = climbed.tiers_reached,
    is_first_group = climbed.is_first_period
FROM (
    SELECT
        usage.span_id,
        usage.price_id,
        usage.group_key,
        coalesce(earlier.quantity, 0)::DECIMAL(38, 9) AS used_before,
        -- Tiers that end price nothing beyond their end.
        greatest(
            least(usage.converted_quantity, coalesce(price.tiers_end - used_before, usage.converted_quantity)), 0
        )::DECIMAL(38, 9) AS priced_quantity,
        (used_before + priced_quantity)::DECIMAL(38, 9) AS tiers_reached,
        -- A group begins with its first use, a price without groups with the plan; where zero usage owes no flat amount, both
        -- begin with the first use that is more than zero.
        CASE
            WHEN price.flat_waits THEN used_before = 0
            WHEN price.has_groups THEN earlier.span_id IS NULL
            ELSE billing_span.service_start = billing_span.since
        END AS is_first_period
    FROM rated_usage AS usage
    JOIN price USING (plan_key, price_id)
    JOIN billing_span USING (span_id)
    LEFT JOIN usage_to_rate AS earlier
        ON earlier.span_id = usage.span_id
        AND earlier.selector_id = price.selector_before
        AND earlier.group_key = usage.group_key
    WHERE price.selector_before IS NOT NULL
) AS climbed
WHERE climbed.span_id = rated_usage.span_id
    AND climbed.price_id = rated_usage.price_id
    AND climbed.group_key = rated_usage.group_key
