-- What the commitments of one turn that are shared in proportion add, and the lines that bear it: those of the sign of what is
-- added, in the order of lines. What is added is (factor - 1) x what the net is above the amount, exact; rating.adjust_steps deals
-- it out in whole minor units. One row per (span, price, group) that bears some.
WITH net AS (
    SELECT
        commitment.span_id,
        commitment.part,
        commitment.amount,
        commitment.factor,
        adjust_scope.position,
        charge.price_id,
        charge.group_key,
        sum(charge.exact_amount)::DECIMAL(38, 21) AS exact_amount
    FROM commitment
    JOIN charge USING (span_id)
    JOIN adjust_scope ON adjust_scope.scope_id = commitment.scope_id AND adjust_scope.price_id = charge.price_id
    WHERE commitment.turn = $turn AND commitment.is_pro_rata
    GROUP BY ALL
),
added AS (
    SELECT
        span_id,
        sum(exact_amount)::DECIMAL(38, 21) AS net_amount,
        greatest(net_amount - any_value(amount), 0)::DECIMAL(38, 21) AS excess_amount,
        ratio_of(excess_amount, any_value(factor)) AS added_amount
    FROM net
    GROUP BY ALL
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
