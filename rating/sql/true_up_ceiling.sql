-- What is left below the maximums of the minimums of one turn, where the plan puts minimums first: a true-up is the last line that
-- a maximum sees, and the first that it takes away. One row per (span, minimum) that has a maximum over it.
CREATE OR REPLACE TABLE true_up_ceiling AS
WITH covered AS (
    SELECT minimum_ceiling.span_id, minimum_ceiling.minimum_id, minimum_ceiling.scope_id, sum(worth_line.amount) AS amount
    -- Two maximums over the same prices cover the same lines, once.
    FROM (SELECT DISTINCT span_id, minimum_id, scope_id FROM minimum_ceiling) AS minimum_ceiling
    JOIN worth_line USING (span_id)
    JOIN adjust_scope ON adjust_scope.scope_id = minimum_ceiling.scope_id AND adjust_scope.price_id = worth_line.price_id
    GROUP BY ALL
)
SELECT
    minimum.span_id,
    minimum.minimum_id,
    min(
        round_amount(minimum_ceiling.amount, currency.minor_per_major, currency.minor_unit) - coalesce(covered.amount, 0)
    ) AS amount
FROM minimum
JOIN minimum_ceiling USING (span_id, minimum_id)
JOIN billing_span USING (span_id)
JOIN currency USING (currency)
LEFT JOIN covered
    ON covered.span_id = minimum_ceiling.span_id
    AND covered.minimum_id = minimum_ceiling.minimum_id
    AND covered.scope_id = minimum_ceiling.scope_id
WHERE minimum.turn = $turn
GROUP BY minimum.span_id, minimum.minimum_id
