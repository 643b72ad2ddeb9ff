-- What every line is worth now, all its usage so far together, in numbers only; `worth` adds the words.
-- One row per (span, price, group) that is due. `exact_amount` is the sum of the line's charges, discounts and maximums
-- included; `amount` is that sum rounded once, here and nowhere else.
-- Some spans at a time, so that what is grouped at once does not grow with the company.
INSERT INTO worth_line BY NAME
WITH part AS (
    SELECT span_id, price_id, group_key, event_count, converted_quantity AS quantity, 0::DECIMAL(38, 21) AS exact_amount
    FROM rated_usage
    WHERE span_id >= $first_span AND span_id < $end_span
    UNION ALL
    -- A flat price has one component per number of units it was held with; the line shows the last of them.
    SELECT charge.span_id, charge.price_id, charge.group_key, 0, arg_max(charge.quantity, charge.tier), 0
    FROM charge
    JOIN billing_span USING (span_id)
    JOIN price ON price.plan_key = billing_span.plan_key AND price.price_id = charge.price_id
    WHERE price.price_type IN ('flat', 'percent_of')
        AND charge.part = price.price_type
        AND charge.span_id >= $first_span
        AND charge.span_id < $end_span
    GROUP BY ALL
    UNION ALL
    SELECT span_id, price_id, group_key, 0, 0, exact_amount
    FROM charge
    WHERE span_id >= $first_span AND span_id < $end_span
),
line AS (
    SELECT
        span_id,
        price_id,
        group_key,
        sum(event_count)::BIGINT AS event_count,
        sum(quantity)::DECIMAL(38, 9) AS quantity,
        sum(exact_amount)::DECIMAL(38, 21) AS exact_amount
    FROM part
    GROUP BY ALL
)
SELECT line.*, round_amount(line.exact_amount, currency.minor_per_major, currency.minor_unit) AS amount
FROM line
JOIN billing_span USING (span_id)
JOIN currency ON currency.currency = billing_span.currency
