-- Use of the period that prices ask nothing for: units that are included, and tiers at a price of 0. One row per (currency, meter),
-- in units of the meter. It is rated and worth nothing, so no amount of the statement has it.
SELECT span.currency, price.meter, sum(charge.quantity) AS quantity
FROM charge
JOIN billing_span AS span USING (span_id)
JOIN price ON price.plan_key = span.plan_key AND price.price_id = charge.price_id
WHERE price.meter IS NOT NULL
    AND charge.quantity > 0
    AND charge.exact_amount = 0
    AND (charge.part = 'included' OR (charge.part = 'unit' AND charge.unit_price = 0))
GROUP BY ALL
ORDER BY ALL
