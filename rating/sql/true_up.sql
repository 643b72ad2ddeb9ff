-- What is missing of the minimums of one turn: round(minimum x share) minus the rounded lines it covers, so that the paper
-- adds up to the minimum; never more than a maximum leaves, where minimums come first (true_up_ceiling). Only once the period
-- is over; zero usage owes all of it. Never below zero. What is promised over several billing periods is owed with the last
-- of them; the lines of those before it are in paid_before, or, where all are rated together, beside it. One row per (span,
-- minimum) that owes something.
CREATE OR REPLACE TABLE true_up AS
WITH covering AS (
    SELECT span_id, minimum_id, scope_id, span_id AS covered_id
    FROM minimum
    WHERE turn = $turn
    UNION ALL
    SELECT minimum.span_id, minimum.minimum_id, minimum.scope_id, earlier.span_id
    FROM minimum
    JOIN pot_member AS member ON member.span_id = minimum.span_id AND member.commitment_id = minimum.minimum_id
    JOIN pot_member AS earlier ON earlier.pot_id = member.pot_id AND earlier.place < member.place
    WHERE minimum.turn = $turn
),
covered AS (
    SELECT covering.span_id, covering.minimum_id, sum(worth_line.amount) AS amount
    FROM covering
    JOIN worth_line ON worth_line.span_id = covering.covered_id
    JOIN adjust_scope ON adjust_scope.scope_id = covering.scope_id AND adjust_scope.price_id = worth_line.price_id
    GROUP BY ALL
)
SELECT
    minimum.span_id,
    minimum.minimum_id,
    minimum.position,
    minimum.description,
    (round_amount(minimum.amount, currency.minor_per_major, currency.minor_unit)
        - coalesce(covered.amount, 0) - minimum.paid_before)::DECIMAL(38, 12) AS missing,
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
