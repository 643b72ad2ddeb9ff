-- Equation 3, rated value = invoiced + carried + not invoiced, in exact money. One row per (meter, currency, bucket); flat
-- fees have no meter: ''.
--   rated_value    the charges of the billing periods, rated now from the snapshot
--   invoiced       the amounts on the lines of final invoices
--   carried        what rounding left over: exact amount minus its own rounding, per line, all bookings together
--   not_invoiced   rated now minus booked before, component by component
-- A booked line whose amount is not the rounding of its exact amount, or whose charges do not add up to it, leaves an
-- unexplained amount: each figure is taken from another table.
SELECT coalesce(price.meter, '') AS meter, span.currency, 'rated_value' AS bucket, sum(charge.exact_amount) AS amount
FROM charge
JOIN billing_span AS span USING (span_id)
JOIN price ON price.plan_key = span.plan_key AND price.price_id = charge.price_id
GROUP BY ALL
UNION ALL
SELECT meter, currency, 'invoiced', sum(amount)
FROM booked
GROUP BY ALL
UNION ALL
SELECT meter, currency, 'carried', sum(exact_amount - rounded_exact_amount)
FROM booked
GROUP BY ALL
UNION ALL
SELECT meter, currency, 'not_invoiced', sum(amount)
FROM (
    SELECT coalesce(price.meter, '') AS meter, span.currency, charge.exact_amount AS amount
    FROM charge
    JOIN billing_span AS span USING (span_id)
    JOIN price ON price.plan_key = span.plan_key AND price.price_id = charge.price_id
    UNION ALL
    SELECT meter, currency, -charged FROM booked
)
GROUP BY ALL
ORDER BY ALL
