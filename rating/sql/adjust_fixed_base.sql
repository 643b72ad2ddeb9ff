-- What the fixed discounts of one turn are shared out over: what earlier turns left of each line, in the order of lines.
-- One row per (pool, span, price, group). A pool is one amount: of a subscription or an account, in one billing period.
SELECT
    discount.pool_id,
    discount.part,
    discount.amount,
    discount.residue,
    billing_span.currency,
    discount.span_id,
    adjust_scope.position,
    charge.price_id,
    charge.group_key,
    sum(charge.exact_amount)::DECIMAL(38, 21) AS exact_amount
FROM discount
JOIN charge USING (span_id)
JOIN billing_span USING (span_id)
JOIN adjust_scope ON adjust_scope.scope_id = discount.scope_id AND adjust_scope.price_id = charge.price_id
WHERE discount.turn = $turn AND discount.amount IS NOT NULL
GROUP BY ALL
HAVING sum(charge.exact_amount) > 0
ORDER BY pool_id, span_id, position, group_key
