-- What final invoices booked so far, per component. One row per (span, price, group, cell, tier, part, unit price).
CREATE OR REPLACE TABLE booked_charge AS
SELECT
    booked_span.span_id,
    price_id,
    group_key,
    cell_key,
    tier,
    part,
    unit_price,
    sum(quantity) AS quantity,
    sum(exact_amount) AS exact_amount
FROM booked_charge_row
JOIN booked_span USING (subscription_id, period_start, service_start, currency)
GROUP BY ALL
