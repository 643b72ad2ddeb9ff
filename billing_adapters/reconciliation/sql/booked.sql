-- What final invoices booked for the billing periods that belong to the period. One row per line key.
-- A billing period belongs to the period in which its last instant lies, in its plan's zone: its end is in (start, end].
-- `rounded_exact_amount` and `charged` are what `amount` and `exact_amount` must be if the books are as they were written.
CREATE OR REPLACE TABLE booked AS
WITH charged AS (
    SELECT span_id, price_id, group_key, sum(exact_amount) AS exact_amount
    FROM booked_charge
    GROUP BY ALL
)
SELECT
    line.span_id,
    line.subscription_id,
    line.period_start,
    line.currency,
    line.price_id,
    line.group_key,
    line.tenant_id,
    coalesce(line.meter, '') AS meter,
    line.amount::DECIMAL(38, 21) AS amount,
    line.exact_amount,
    round_amount(line.exact_amount, places.minor_per_major, places.minor_unit)::DECIMAL(38, 21) AS rounded_exact_amount,
    coalesce(charged.exact_amount, 0)::DECIMAL(38, 21) AS charged
FROM booked_line AS line
JOIN plan_period
    ON plan_period.plan = line.plan
    AND plan_period.plan_version = line.plan_version
    AND line.period_end > plan_period.start_instant
    AND line.period_end <= plan_period.end_instant
JOIN currency_unit AS places ON places.currency = line.currency
LEFT JOIN charged
    ON charged.span_id = line.span_id AND charged.price_id = line.price_id AND charged.group_key = line.group_key
