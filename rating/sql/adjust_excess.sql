-- What a commitment adds to the net above its amount: the excess x (overage factor - 1), exact.
-- Lines are taken in their order with a running net. The one that lifts it above the amount is dearer by the excess, later ones
-- by all they are; exactly the amount is no excess. A negative line takes back what was added to those before it, so that
-- together they are always min(amount, net) + factor x the rest. What is shared in proportion has a statement of its own
-- (adjust_excess_base). An amount that is one over several billing periods begins with what was used before; where these are
-- rated together, their lines follow one another. One row per (span, price, group) whose excess is not zero.
INSERT INTO charge
WITH net AS (
    SELECT *
    FROM commitment_net
    WHERE turn = $turn AND NOT is_pro_rata
),
running AS (
    SELECT
        *,
        (used_before + sum(exact_amount) OVER (
            PARTITION BY pot_id ORDER BY place, position, group_key ROWS UNBOUNDED PRECEDING
        ))::DECIMAL(38, 21) AS net_after,
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
