-- Subscriptions with a billing period of the period that is over, that owe something for it and are on no final invoice, of those that
-- owe something or are: one row. What a plan leaves as it was invoiced is left out.
WITH owed AS (
    SELECT span_id, sum(amount) AS amount
    FROM worth
    GROUP BY ALL
),
billed AS (
    SELECT DISTINCT span_id FROM booked_line
),
subscription AS (
    SELECT span.subscription_id, bool_and(billed.span_id IS NOT NULL) AS is_billed
    FROM billing_span AS span
    LEFT JOIN owed USING (span_id)
    LEFT JOIN billed USING (span_id)
    ANTI JOIN frozen_span USING (span_id)
    WHERE span.is_current AND span.period_end <= $as_of AND (owed.amount > 0 OR billed.span_id IS NOT NULL)
    GROUP BY ALL
)
SELECT
    NULL::VARCHAR AS currency,
    count_if(NOT is_billed)::DECIMAL(38, 9) AS part,
    count(*)::DECIMAL(38, 9) AS whole
FROM subscription
