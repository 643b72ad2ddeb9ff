-- The components of plans that round every one of them (round_at: component), to the minor unit. Three of 3.333 are 9.99 then,
-- and 10.00 where only the line is rounded. Components that are in minor units already stay what they are.
UPDATE charge
SET exact_amount = round_amount(charge.exact_amount, currency.minor_per_major, currency.minor_unit)
FROM billing_span, price, currency
WHERE billing_span.span_id = charge.span_id
    AND price.plan_key = billing_span.plan_key
    AND price.price_id = charge.price_id
    AND price.rounds_components
    AND currency.currency = billing_span.currency
