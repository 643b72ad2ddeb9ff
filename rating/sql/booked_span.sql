-- The billing spans that invoices booked something for, under the numbers of the spans that are rated now. One row per
-- (subscription, period, service start, currency). Those that the terms do not know any more get numbers below zero: what
-- was booked for them meets no worth, and is reversed in full.
CREATE OR REPLACE TABLE booked_span AS
SELECT
    booked.*,
    coalesce(
        billing_span.span_id,
        -row_number() OVER (
            ORDER BY booked.subscription_id, booked.period_start, booked.service_start, booked.currency
        )
    ) AS span_id
FROM (SELECT DISTINCT subscription_id, period_start, service_start, currency FROM booked_line_row) AS booked
LEFT JOIN billing_span USING (subscription_id, period_start, service_start, currency)
