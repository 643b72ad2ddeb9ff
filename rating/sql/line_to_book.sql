-- Worth minus booked, per line (span, price, group): what the next invoice of the account says.
-- One row per line that differs in quantity, exact amount, amount or in any of its components. The amount is
-- round(cumulative exact amount) minus the amounts booked before, so that every rounding error is repaid by the next one.
-- A line that was booked and is worth nothing any more is reversed in full, on the terms it was booked with.
CREATE OR REPLACE TABLE line_to_book AS
WITH compared AS (
    SELECT
        span_id,
        price_id,
        group_key,
        coalesce(worth.subscription_id, booked_line.subscription_id) AS subscription_id,
        coalesce(worth.period_start, booked_line.period_start) AS period_start,
        coalesce(worth.service_start, booked_line.service_start) AS service_start,
        coalesce(worth.currency, booked_line.currency) AS currency,
        coalesce(worth.tenant_id, booked_line.tenant_id) AS tenant_id,
        coalesce(worth.account_id, booked_line.account_id) AS account_id,
        coalesce(worth.plan, booked_line.plan) AS plan,
        coalesce(worth.plan_version, booked_line.plan_version) AS plan_version,
        coalesce(worth.price_type, booked_line.price_type) AS price_type,
        coalesce(worth.price_position, 1000000) AS price_position,
        coalesce(worth.meter, booked_line.meter) AS meter,
        coalesce(worth.unit, booked_line.unit) AS unit,
        coalesce(worth.description, booked_line.description) AS description,
        coalesce(worth.period_end, booked_line.period_end) AS period_end,
        coalesce(worth.service_end, booked_line.service_end) AS service_end,
        coalesce(worth.is_current, false) AS is_current,
        coalesce(worth.quantity, 0)::DECIMAL(38, 9) AS cumulative_quantity,
        coalesce(worth.exact_amount, 0)::DECIMAL(38, 21) AS cumulative_exact_amount,
        coalesce(worth.amount, 0)::DECIMAL(38, 12) AS cumulative_amount,
        cumulative_quantity - coalesce(booked_line.quantity, 0) AS quantity,
        cumulative_exact_amount - coalesce(booked_line.exact_amount, 0) AS exact_amount,
        cumulative_amount - coalesce(booked_line.amount, 0) AS amount
    FROM worth
    FULL OUTER JOIN booked_line USING (span_id, price_id, group_key)
)
SELECT
    compared.*,
    CASE
        WHEN NOT is_current THEN 'correction'
        WHEN price_type IN ('flat', 'minimum') THEN price_type
        ELSE 'usage'
    END AS kind
FROM compared
LEFT JOIN (SELECT DISTINCT span_id, price_id, group_key FROM charge_to_book) AS touched
    USING (span_id, price_id, group_key)
WHERE touched.span_id IS NOT NULL OR quantity <> 0 OR exact_amount <> 0 OR amount <> 0
