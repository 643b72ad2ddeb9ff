-- Equation 3, rated value = invoiced + carried + not invoiced, in exact money. One row per (meter, currency, bucket); flat
-- fees have no meter: ''.
--   rated_value    the charges of the billing periods, rated now from the snapshot
--   invoiced       the amounts on the lines of final invoices
--   carried        what rounding left over: exact amount minus its own rounding, per line, all bookings together
--   not_invoiced   rated now minus booked before, component by component
--   late_frozen    the same, of spans whose plan leaves their invoices as they are: nobody will invoice it
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
SELECT
    meter,
    currency,
    CASE WHEN frozen_span.span_id IS NULL THEN 'not_invoiced' ELSE 'late_frozen' END,
    sum(amount)
FROM (
    SELECT charge.span_id, coalesce(price.meter, '') AS meter, span.currency, charge.exact_amount AS amount
    FROM charge
    JOIN billing_span AS span USING (span_id)
    JOIN price ON price.plan_key = span.plan_key AND price.price_id = charge.price_id
    UNION ALL
    SELECT span_id, meter, currency, -charged FROM booked
)
LEFT JOIN frozen_span USING (span_id)
GROUP BY ALL
ORDER BY ALL
