-- control: TIER_BOUNDARY
-- version: 2
-- point: P4
-- compares: the booked components of graduated prices with the tiers worked out again, by arithmetic that rating does not share:
--     each tier takes what of the quantity lies between its bounds
-- catches: an edge that is off by one, an allowance that is granted twice, tiers out of order
-- class: AT_RISK
-- owner: ENG
-- money: EXACT
-- act: compare the tiers of the named line with its plan (`tallybook explain`); correct by a supplementary invoice or a credit
-- cadence: close
-- needs: booked_charge
-- needs: booked_line
-- needs: price
-- needs: price_tier
WITH billed AS (
    SELECT
        booked_charge.span_id,
        booked_charge.price_id,
        booked_charge.group_key,
        booked_charge.cell_key,
        price.plan_key,
        sum(booked_charge.quantity) AS quantity,
        sum(booked_charge.exact_amount) AS exact_amount
    FROM booked_charge
    JOIN billing_span AS span USING (span_id)
    JOIN price ON price.plan_key = span.plan_key AND price.price_id = booked_charge.price_id
    WHERE booked_charge.part = 'unit'
        AND price.price_type = 'graduated'
        AND NOT price.is_pooled
        AND NOT price.tiers_are_held
        AND NOT price.edge_is_lower
        AND NOT price.gap_is_lost
        AND NOT price.rounds_components
        -- Tiers that go on from what was used before, and components that are packages, say nothing of where a unit lies.
        AND price.selector_before IS NULL
        AND (price.plan_key, price.price_id) NOT IN (
            SELECT (tier.plan_key, tier.price_id) FROM price_tier AS tier WHERE tier.package_size IS NOT NULL
        )
    GROUP BY ALL
),
again AS (
    SELECT
        billed.span_id,
        billed.price_id,
        billed.group_key,
        billed.cell_key,
        sum(
            greatest(least(billed.quantity, coalesce(tier.upper_bound, billed.quantity)) - tier.lower_bound, 0)
                * tier.unit_price
        ) AS exact_amount
    FROM billed
    JOIN price_tier AS tier USING (plan_key, price_id)
    GROUP BY ALL
)
SELECT
    line.tenant_id,
    line.account_id,
    line.subscription_id,
    line.meter,
    'tiers_differ' AS reason,
    line.subscription_id || ' ' || billed.price_id || ' ' || billed.group_key || ' ' || billed.cell_key AS subject,
    billed.quantity::DECIMAL(38, 9) AS quantity_difference,
    abs(again.exact_amount - billed.exact_amount)::DECIMAL(38, 21) AS amount_likely,
    line.currency,
    CASE WHEN again.exact_amount < billed.exact_amount THEN 'OVERBILL' ELSE 'AT_RISK' END AS class,
    line.service_start AS occurred_at,
    billed.quantity || ' units were billed at ' || billed.exact_amount || '; the tiers of the plan give ' || again.exact_amount
        AS detail
FROM billed
JOIN again USING (span_id, price_id, group_key, cell_key)
JOIN booked_line AS line USING (span_id, price_id, group_key)
WHERE again.exact_amount <> billed.exact_amount
ORDER BY ALL
