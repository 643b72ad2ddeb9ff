-- Percent discounts of one turn: percent x what earlier turns left of the line, exact. Several multiply: 10 % and 25 %
-- on 80 take 26, in any order. A line that is worth nothing, or less, is not lowered.
-- One row per (span, price, group) that is lowered; the amount is negative.
INSERT INTO charge
WITH net AS (
    SELECT
        discount.span_id,
        discount.part,
        discount.ratio,
        charge.price_id,
        charge.group_key,
        sum(charge.exact_amount)::DECIMAL(38, 21) AS exact_amount
    FROM discount
    JOIN charge USING (span_id)
    JOIN adjust_scope ON adjust_scope.scope_id = discount.scope_id AND adjust_scope.price_id = charge.price_id
    WHERE discount.turn = $turn AND discount.ratio IS NOT NULL
    GROUP BY ALL
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
    -ratio_of(net.exact_amount, ratio) AS exact_amount
FROM net
WHERE net.exact_amount > 0
