-- What final invoices booked so far, per line. One row per (span, price, group).
-- The terms are those of the latest booking; sums are exact.
CREATE OR REPLACE TABLE booked_line AS
SELECT
    booked_span.span_id,
    price_id,
    group_key,
    any_value(subscription_id) AS subscription_id,
    any_value(period_start) AS period_start,
    any_value(service_start) AS service_start,
    any_value(currency) AS currency,
    arg_max(tenant_id, booking) AS tenant_id,
    arg_max(account_id, booking) AS account_id,
    arg_max(plan, booking) AS plan,
    arg_max(plan_version, booking) AS plan_version,
    arg_max(price_type, booking) AS price_type,
    arg_max(meter, booking) AS meter,
    arg_max(unit, booking) AS unit,
    arg_max(description, booking) AS description,
    arg_max(period_end, booking) AS period_end,
    arg_max(service_end, booking) AS service_end,
    sum(quantity) AS quantity,
    sum(exact_amount) AS exact_amount,
    sum(amount) AS amount
FROM booked_line_row
JOIN booked_span USING (subscription_id, period_start, service_start, currency)
GROUP BY booked_span.span_id, price_id, group_key
