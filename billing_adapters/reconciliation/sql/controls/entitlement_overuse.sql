-- control: ENTITLEMENT_OVERUSE
-- version: 1
-- point: P4
-- compares: what was used beyond all grants with what the prices of the meter charge for. Units that are charged
--     count, whichever they were; a price that counts in packages, steps or other units, and charges anything, is
--     taken to charge for all of it
-- catches: a soft limit that nobody pays for: overage that is allowed and has no price, or tiers that are free
--     further than the quota reaches; use beyond a limit that should have stopped it
-- class: AT_RISK
-- owner: SALES, FIN
-- money: E2
-- act: a price or an upgrade bills it from now on
-- cadence: close
-- needs: entitled_use
-- needs: charge
-- needs: billing_span
-- needs: price
WITH paid AS (
    SELECT
        span.tenant_id,
        price.meter,
        coalesce(
            sum(charge.quantity) FILTER (
                price.price_type IN ('unit', 'graduated', 'volume', 'matrix', 'dynamic')
                AND price.convert_numerator IS NULL
                AND charge.part = 'unit'
            ),
            0
        ) AS quantity,
        coalesce(
            bool_or(
                price.price_type NOT IN ('unit', 'graduated', 'volume', 'matrix', 'dynamic')
                OR price.convert_numerator IS NOT NULL
            ),
            false
        ) AS is_charged_otherwise
    FROM charge
    JOIN billing_span AS span USING (span_id)
    JOIN price ON price.plan_key = span.plan_key AND price.price_id = charge.price_id
    WHERE span.is_current AND price.meter IS NOT NULL AND charge.exact_amount > 0
    GROUP BY ALL
),
over_used AS (
    SELECT tenant_id, feature, meter, overage, sum(used) AS used, sum(over_used) AS over_used
    FROM entitled_use
    GROUP BY ALL
)
SELECT
    over_used.tenant_id,
    over_used.meter,
    'overage_' || over_used.overage || '_' || over_used.feature AS reason,
    NULL::BIGINT AS rows,
    (over_used.over_used - coalesce(paid.quantity, 0))::DECIMAL(38, 9) AS quantity_difference,
    'used ' || over_used.used || ', ' || over_used.over_used || ' beyond what entitles to ' || over_used.feature || '; '
        || coalesce(paid.quantity, 0) || ' of the meter are charged for' AS detail
FROM over_used
LEFT JOIN paid USING (tenant_id, meter)
WHERE over_used.over_used > coalesce(paid.quantity, 0) AND NOT coalesce(paid.is_charged_otherwise, false)
ORDER BY ALL
