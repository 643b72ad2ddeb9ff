-- control: TRUE_UP_MISSING
-- version: 2
-- point: P5
-- compares: what was promised for a closed billing period (minimums, commitments with true-up) with what final invoices booked for
--     the prices it covers, the true-up line among them; of what is promised over several billing periods, what is left for the
--     last of them
-- catches: minimums that nobody invoices
-- class: AT_RISK
-- owner: FIN
-- money: EXACT
-- act: the next close books what is missing; a term that was extended is written into the catalog
-- cadence: close
-- needs: minimum
-- needs: adjust_scope
-- needs: billing_span
-- needs: booked_line
-- needs: period_close
WITH booked_for AS (
    SELECT minimum.span_id, minimum.minimum_id, sum(line.amount) AS amount
    FROM minimum
    JOIN booked_line AS line USING (span_id)
    LEFT JOIN adjust_scope ON adjust_scope.scope_id = minimum.scope_id AND adjust_scope.price_id = line.price_id
    WHERE adjust_scope.price_id IS NOT NULL OR line.price_id = minimum.minimum_id
    GROUP BY ALL
)
SELECT
    span.tenant_id,
    span.account_id,
    span.subscription_id,
    'no_true_up' AS reason,
    span.subscription_id || ' ' || minimum.minimum_id AS subject,
    -- What is owed is rounded once, to the minor unit, as its line would be.
    (round_amount(minimum.amount, currency.minor_per_major, currency.minor_unit) - minimum.paid_before - booked_for.amount)
        ::DECIMAL(38, 21) AS amount_likely,
    span.currency,
    span.period_end - INTERVAL 1 MICROSECOND AS occurred_at,
    minimum.minimum_id || ' promises ' || minimum.amount || ' ' || span.currency || ', and ' || booked_for.amount || ' is booked'
        || CASE WHEN minimum.paid_before <> 0 THEN ' after ' || minimum.paid_before || ' of earlier periods' ELSE '' END
        AS detail
FROM minimum
JOIN billing_span AS span USING (span_id)
JOIN currency USING (currency)
JOIN booked_for USING (span_id, minimum_id)
-- A maximum may win over a minimum.
ANTI JOIN (SELECT span_id FROM maximum) AS capped USING (span_id)
SEMI JOIN (
    SELECT 1 AS one FROM period_close WHERE is_complete AND period_start = $start_instant AND period_end = $end_instant
) AS closed ON true
WHERE span.is_current
    AND round_amount(minimum.amount, currency.minor_per_major, currency.minor_unit) - minimum.paid_before > booked_for.amount
ORDER BY ALL
