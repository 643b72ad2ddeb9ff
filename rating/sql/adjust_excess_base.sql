-- What the commitments of one turn that are shared in proportion add, and the lines that bear it: those of the sign of what is
-- added, in the order of lines. What is added is (factor - 1) x what the net is above what is left of the amount, exact;
-- rating.adjust_steps deals it out in whole minor units. One row per (span, price, group) that bears some.
WITH net AS (
    SELECT *
    FROM commitment_net
    WHERE turn = $turn AND is_pro_rata
),
whole AS (
    SELECT span_id, pot_id, place, amount, factor, used_before, sum(exact_amount)::DECIMAL(38, 21) AS net_amount
    FROM net
    GROUP BY ALL
),
added AS (
    SELECT
        span_id,
        (used_before + sum(net_amount) OVER (PARTITION BY pot_id ORDER BY place ROWS UNBOUNDED PRECEDING))::DECIMAL(38, 21)
            AS net_after,
        (net_after - net_amount)::DECIMAL(38, 21) AS net_before,
        (greatest(net_after - amount, 0) - greatest(net_before - amount, 0))::DECIMAL(38, 21) AS excess_amount,
        ratio_of(excess_amount, factor) AS added_amount
    FROM whole
)
SELECT
    net.span_id,
    net.part,
    billing_span.currency,
    added.added_amount,
    net.position,
    net.price_id,
    net.group_key,
    net.exact_amount
FROM net
JOIN added USING (span_id)
JOIN billing_span USING (span_id)
WHERE sign(net.exact_amount) = sign(added.added_amount) AND added.added_amount <> 0
ORDER BY net.span_id, net.position, net.group_key
