-- Worth minus booked, per component key (subscription, period, service start, price, group, cell, tier, part, unit price).
-- One row per component that differs. Same unit price: the difference. Unit price changed (volume, a corrected price):
-- the old component is worth nothing now and comes back negative, the new one is booked whole.
CREATE OR REPLACE TABLE charge_to_book AS
WITH worth_charge AS (
    SELECT
        billing_span.subscription_id,
        billing_span.period_start,
        billing_span.service_start,
        billing_span.currency,
        charge.price_id,
        charge.group_key,
        charge.cell_key,
        charge.tier,
        charge.part,
        charge.unit_price,
        charge.quantity,
        charge.exact_amount
    FROM charge
    JOIN billing_span USING (span_id)
)
SELECT
    subscription_id,
    period_start,
    service_start,
    currency,
    price_id,
    group_key,
    cell_key,
    tier,
    part,
    unit_price,
    coalesce(worth_charge.quantity, 0) - coalesce(booked_charge.quantity, 0) AS quantity,
    coalesce(worth_charge.exact_amount, 0) - coalesce(booked_charge.exact_amount, 0) AS exact_amount
FROM worth_charge
FULL OUTER JOIN booked_charge
    USING (
        subscription_id, period_start, service_start, currency, price_id, group_key, cell_key, tier, part, unit_price
    )
WHERE coalesce(worth_charge.quantity, 0) <> coalesce(booked_charge.quantity, 0)
    OR coalesce(worth_charge.exact_amount, 0) <> coalesce(booked_charge.exact_amount, 0)
