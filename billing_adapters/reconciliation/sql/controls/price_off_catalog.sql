-- control: PRICE_OFF_CATALOG
-- version: 1
-- point: P4
-- compares: the price of a unit on every booked component with the tiers of that plan version in the catalog
-- catches: a catalog that was edited in place, books that were edited. Components of other kinds of prices are not looked at
-- class: AT_RISK
-- owner: FIN
-- money: EXACT
-- act: restore the plan version as it was sold, or correct what was billed
-- cadence: close
-- needs: booked_charge_row
-- needs: booked_line
-- needs: plan_tier
-- needs: subscription_term
WITH billed AS (
    SELECT line.tenant_id, line.account_id, line.subscription_id, line.meter, line.currency, line.plan, line.plan_version,
        line.price_id, component.tier, component.unit_price, line.service_start, sum(component.quantity) AS quantity
    FROM booked_charge_row AS component
    JOIN booked_line AS line
        ON line.subscription_id = component.subscription_id
        AND line.period_start = component.period_start
        AND line.service_start = component.service_start
        AND line.currency = component.currency
        AND line.price_id = component.price_id
        AND line.group_key = component.group_key
    WHERE component.part = 'unit' AND line.price_type IN ('unit', 'graduated', 'volume')
    GROUP BY ALL
    HAVING sum(component.quantity) <> 0
)
SELECT
    billed.tenant_id,
    billed.account_id,
    billed.subscription_id,
    billed.meter,
    'price_differs' AS reason,
    billed.subscription_id || ' ' || billed.price_id || ' tier ' || billed.tier AS subject,
    abs(sum(billed.quantity))::DECIMAL(38, 9) AS quantity_difference,
    abs(sum(billed.quantity * (tier.unit_price - billed.unit_price)))::DECIMAL(38, 21) AS amount_likely,
    billed.currency,
    CASE WHEN sum(billed.quantity * (tier.unit_price - billed.unit_price)) < 0 THEN 'OVERBILL' ELSE 'AT_RISK' END AS class,
    min(billed.service_start) AS occurred_at,
    'billed at ' || min(billed.unit_price) || ', tier ' || billed.tier || ' of ' || billed.plan || ' version '
        || billed.plan_version || ' says ' || tier.unit_price AS detail
FROM billed
JOIN plan_tier AS tier
    ON tier.plan = billed.plan
    AND tier.plan_version = billed.plan_version
    AND tier.price_id = billed.price_id
    AND tier.tier = billed.tier
-- A subscription with prices of its own has them from its overrides.
ANTI JOIN (SELECT subscription_id FROM subscription_term WHERE has_overrides) AS own
    ON own.subscription_id = billed.subscription_id
WHERE billed.unit_price <> tier.unit_price
GROUP BY billed.tenant_id, billed.account_id, billed.subscription_id, billed.meter, billed.price_id, billed.tier, billed.currency,
    billed.plan, billed.plan_version, tier.unit_price
ORDER BY ALL
