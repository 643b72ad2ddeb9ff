-- What final invoices booked so far, per component key. One row per component whose bookings do not cancel out.
CREATE OR REPLACE TABLE booked_charge AS
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
    sum(quantity) AS quantity,
    sum(exact_amount) AS exact_amount
FROM booked_charge_row
GROUP BY ALL
