-- What happens to the net above an amount: a maximum takes it away (factor -1), a commitment makes it dearer (factor - 1).
-- Lines are taken in their order with a running net. The one that lifts it above the amount bears the excess, later ones
-- all they are; exactly the amount is no excess. A negative line gives back what was taken from those before it, so that
-- together they are always min(amount, net). What is shared in proportion has a statement of its own (adjust_excess_base).
-- One row per (span, price, group) whose excess is not zero.
INSERT INTO charge
WITH net AS (
    SELECT
        ceiling.span_id,
        ceiling.part,
        ceiling.amount,
        ceiling.factor,
        adjust_scope.position,
        charge.price_id,
        charge.group_key,
        sum(charge.exact_amount)::DECIMAL(38, 21) AS exact_amount
    FROM ceiling
    JOIN charge USING (span_id)
    JOIN adjust_scope ON adjust_scope.scope_id = ceiling.scope_id AND adjust_scope.price_id = charge.price_id
    WHERE ceiling.turn = $turn AND NOT ceiling.is_pro_rata
    GROUP BY ALL
),
running AS (
    SELECT
        *,
        sum(exact_amount) OVER (
            PARTITION BY span_id ORDER BY position, group_key ROWS UNBOUNDED PRECEDING
        )::DECIMAL(38, 21) AS net_after,
        (net_after - exact_amount)::DECIMAL(38, 21) AS net_before
    FROM net
),
excess AS (
    SELECT
        *,
        (greatest(net_after - amount, 0) - greatest(net_before - amount, 0))::DECIMAL(38, 21) AS excess_amount
    FROM running
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
    ratio_of(excess_amount, factor) AS exact_amount
FROM excess
WHERE excess_amount <> 0
