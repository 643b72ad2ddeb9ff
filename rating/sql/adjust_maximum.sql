-- What a maximum takes away, so that the paper adds up: what the rounded lines it covers come to above round(maximum x share).
-- 50.005 and 49.995 under 100 are 50.01 + 50.00, and the last becomes 49.99. What is above is taken off the last lines first, in
-- minor units, and none falls below zero; a line that is not above zero is left alone. So no line is ever raised, and what one
-- maximum holds no other one lifts again, however they overlap. A line that is lowered is exactly what stands on paper.
-- Where every component is rounded (round_at: component) lines are in minor units, and the maximum is exact until it is taken off.
-- One row per (span, price, group) that is lowered.
INSERT INTO charge
WITH line AS (
    SELECT
        maximum.span_id,
        maximum.part,
        maximum.amount AS exact_maximum,
        adjust_scope.position,
        charge.price_id,
        charge.group_key,
        price.rounds_components,
        currency.minor_per_major,
        currency.minor_unit,
        sum(charge.exact_amount)::DECIMAL(38, 21) AS exact_amount
    FROM maximum
    JOIN charge USING (span_id)
    JOIN adjust_scope ON adjust_scope.scope_id = maximum.scope_id AND adjust_scope.price_id = charge.price_id
    JOIN billing_span USING (span_id)
    JOIN price ON price.plan_key = billing_span.plan_key AND price.price_id = charge.price_id
    JOIN currency USING (currency)
    WHERE maximum.turn = $turn
    GROUP BY ALL
),
rounded AS (
    SELECT
        *,
        round_amount(exact_amount, minor_per_major, minor_unit) AS amount,
        CASE
            WHEN rounds_components THEN exact_maximum
            ELSE round_amount(exact_maximum, minor_per_major, minor_unit)
        END AS maximum_amount
    FROM line
),
compared AS (
    SELECT
        *,
        greatest(sum(amount) OVER (PARTITION BY span_id) - maximum_amount, 0) AS above,
        sum(greatest(amount, 0)) OVER (
            PARTITION BY span_id ORDER BY position DESC, group_key DESC ROWS UNBOUNDED PRECEDING
        ) - greatest(amount, 0) AS taken_before
    FROM rounded
),
lowered AS (
    SELECT *, least(greatest(amount, 0), greatest(above - taken_before, 0)) AS taken
    FROM compared
)
SELECT
    span_id,
    price_id,
    group_key,
    '' AS cell_key,
    0 AS tier,
    part,
    0 AS quantity,
    0 AS unit_price,
    (amount - taken - exact_amount)::DECIMAL(38, 21) AS exact_amount
FROM lowered
WHERE taken > 0
