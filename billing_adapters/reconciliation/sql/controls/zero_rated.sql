-- control: ZERO_RATED
-- version: 1
-- point: P4
-- compares: what was priced at 0 with the price of a unit in the other versions of the same plan, in the plan without the
--     subscription's overrides, or on the list
-- catches: a price typed wrongly, a concession that nobody ended. A meter that is free everywhere is free on purpose, and so
--     is a first tier at 0
-- class: AT_RISK
-- owner: FIN
-- money: E3
-- act: correct the price in a new plan version, or end the override; a promotion that is meant is waived until it ends
-- cadence: close
-- setting: free_plans = [] names of plans that are free on purpose
-- needs: charge
-- needs: billing_span
-- needs: price
-- needs: price_tier
-- needs: plan_tier
-- needs: list_price
WITH free_price AS (
    SELECT plan_key, price_id
    FROM price_tier
    GROUP BY ALL
    HAVING max(unit_price) = 0 AND max(flat_amount) = 0
),
given_away AS (
    SELECT span.tenant_id, span.subscription_id, span.plan, span.currency, price.meter, price.price_id,
        sum(charge.quantity) AS quantity, min(span.service_start) AS occurred_at
    FROM charge
    JOIN billing_span AS span USING (span_id)
    JOIN price ON price.plan_key = span.plan_key AND price.price_id = charge.price_id
    SEMI JOIN free_price ON free_price.plan_key = span.plan_key AND free_price.price_id = charge.price_id
    WHERE span.is_current
        AND price.meter IS NOT NULL
        AND charge.part = 'unit'
        AND charge.unit_price = 0
        AND charge.quantity > 0
        AND NOT list_contains($free_plans, span.plan)
    GROUP BY ALL
),
listed AS (
    SELECT plan, price_id, arg_max(plan_tier.unit_price, (plan_version, -tier)) AS unit_price
    FROM plan_tier
    WHERE plan_tier.unit_price > 0
    GROUP BY ALL
)
SELECT
    given_away.tenant_id,
    given_away.subscription_id,
    given_away.meter,
    'priced_at_zero' AS reason,
    given_away.price_id AS subject,
    given_away.quantity::DECIMAL(38, 9) AS quantity_difference,
    (given_away.quantity * coalesce(list_price.unit_price, listed.unit_price))::DECIMAL(38, 21) AS amount_likely,
    coalesce(list_price.currency, given_away.currency) AS currency,
    'E3' AS estimate_basis,
    given_away.occurred_at,
    'price ' || given_away.price_id || ' of plan ' || given_away.plan || ' takes 0; a unit is listed at '
        || coalesce(list_price.unit_price, listed.unit_price) AS detail
FROM given_away
LEFT JOIN listed ON listed.plan = given_away.plan AND listed.price_id = given_away.price_id
LEFT JOIN list_price ON list_price.meter = given_away.meter AND list_price.currency = given_away.currency
WHERE coalesce(list_price.unit_price, listed.unit_price) > 0
ORDER BY ALL
