-- capacity: the amount of the first tier all of whose limits hold; a limit is inclusive, and a meter without one has none.
-- Without any use nothing is due. The line shows its first meter; part `peak` is what each meter reached, and costs nothing.
-- 10.00 {seats 5, gb 100}, 25.00 {20, 500}, 60.00 {open}: 4 seats and 130 gb are 25.00. Source: price models, section 1.7.
INSERT INTO charge
WITH reached AS (
    SELECT due.span_id, due.plan_key, due.price_id, usage.meter, usage.selector_id, usage.event_count, usage.quantity
    FROM rated_usage AS due
    JOIN usage ON usage.span_id = due.span_id AND split_part(usage.selector_id, chr(29), 1) = due.price_id
    WHERE due.price_type = 'capacity'
),
used AS (
    SELECT span_id, plan_key, price_id
    FROM reached
    GROUP BY ALL
    HAVING bool_or(event_count > 0 OR quantity > 0)
),
exceeded AS (
    SELECT DISTINCT reached.span_id, reached.price_id, price_limit.tier
    FROM reached
    JOIN price_limit USING (plan_key, price_id, selector_id)
    WHERE reached.quantity > price_limit.upper_bound
),
chosen AS (
    SELECT used.span_id, used.price_id, min(tier.tier) AS tier, arg_min(tier.flat_amount, tier.tier) AS flat_amount
    FROM used
    JOIN price_tier AS tier USING (plan_key, price_id)
    ANTI JOIN exceeded
        ON exceeded.span_id = used.span_id AND exceeded.price_id = used.price_id AND exceeded.tier = tier.tier
    GROUP BY ALL
)
SELECT span_id, price_id, '' AS group_key, '' AS cell_key, tier, 'flat' AS part, 1 AS quantity, flat_amount, flat_amount
FROM chosen
UNION ALL
SELECT
    reached.span_id,
    reached.price_id,
    '' AS group_key,
    reached.meter AS cell_key,
    0 AS tier,
    'peak' AS part,
    reached.quantity,
    0 AS unit_price,
    0 AS exact_amount
FROM reached
JOIN chosen USING (span_id, price_id)
WHERE reached.quantity <> 0
