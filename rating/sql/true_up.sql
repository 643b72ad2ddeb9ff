-- What is missing of the minimums of one turn: round(minimum x share) minus the rounded lines it covers, so that the paper
-- adds up to the minimum; never more than a maximum leaves, where minimums come first (true_up_ceiling). Only once the period is
-- over; zero usage owes all of it. Never below zero. One row per (span, minimum) that owes something.
CREATE OR REPLACE TABLE true_up AS
WITH covered AS (
    SELECT minimum.span_id, minimum.minimum_id, sum(worth_line.amount) AS amount
    FROM minimum
    JOIN worth_line USING (span_id)
    JOIN adjust_scope ON adjust_scope.scope_id = minimum.scope_id AND adjust_scope.price_id = worth_line.price_id
    WHERE minimum.turn = $turn
    GROUP BY ALL
)
SELECT
    minimum.span_id,
    minimum.minimum_id,
    minimum.position,
    minimum.description,
    (round_amount(minimum.amount, currency.minor_per_major, currency.minor_unit)
        - coalesce(covered.amount, 0))::DECIMAL(38, 12) AS missing,
    least(missing, coalesce(true_up_ceiling.amount, missing))::DECIMAL(38, 12) AS owed
FROM minimum
JOIN billing_span USING (span_id)
JOIN currency USING (currency)
LEFT JOIN covered ON covered.span_id = minimum.span_id AND covered.minimum_id = minimum.minimum_id
LEFT JOIN true_up_ceiling
    ON true_up_ceiling.span_id = minimum.span_id AND true_up_ceiling.minimum_id = minimum.minimum_id
WHERE minimum.turn = $turn
    AND billing_span.period_end <= $as_of
    AND owed > 0
