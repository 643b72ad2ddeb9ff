-- control: PLAN_VERSION_DIFFERS
-- version: 2
-- point: P4
-- compares: the plan version that final invoices name with the one that the subscription is on at that time
-- catches: an upgrade that was billed at the old price, a change of plan that was entered late
-- class: AT_RISK
-- owner: FIN
-- money: EXACT
-- act: the next close books the difference as a correction; if the period is frozen, write a supplementary invoice
-- cadence: close
-- needs: booked_line
-- needs: billing_span
-- needs: charge
WITH worth_now AS (
    SELECT span_id, price_id, sum(exact_amount) AS exact_amount
    FROM charge
    GROUP BY ALL
),
billed AS (
    SELECT span_id, price_id, min(plan) AS plan, min(plan_version) AS plan_version, min(meter) AS meter,
        sum(quantity) AS quantity, sum(exact_amount) AS exact_amount
    FROM booked_line
    GROUP BY ALL
)
SELECT
    span.tenant_id,
    span.account_id,
    span.subscription_id,
    billed.meter,
    'other_plan_version' AS reason,
    span.subscription_id || ' ' || billed.price_id AS subject,
    abs(billed.quantity)::DECIMAL(38, 9) AS quantity_difference,
    abs(coalesce(worth_now.exact_amount, 0) - billed.exact_amount)::DECIMAL(38, 21) AS amount_likely,
    span.currency,
    'E1' AS estimate_basis,
    CASE WHEN coalesce(worth_now.exact_amount, 0) < billed.exact_amount THEN 'OVERBILL' ELSE 'AT_RISK' END AS class,
    span.service_start AS occurred_at,
    'billed under ' || billed.plan || ' version ' || billed.plan_version || ', and on ' || span.plan || ' version '
        || span.plan_version || ' then' AS detail
FROM billed
JOIN billing_span AS span USING (span_id)
LEFT JOIN worth_now ON worth_now.span_id = billed.span_id AND worth_now.price_id = billed.price_id
WHERE billed.plan <> span.plan OR billed.plan_version <> span.plan_version
ORDER BY ALL
