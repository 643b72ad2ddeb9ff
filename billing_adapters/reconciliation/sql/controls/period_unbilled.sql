-- control: PERIOD_UNBILLED
-- version: 1
-- point: P5
-- compares: the billing periods of every subscription that are over with those that final invoices booked, and these with one
--     another
-- catches: cycles that were skipped, subscriptions that no invoice knows, times that were billed twice
-- class: AT_RISK
-- owner: OPS
-- money: EXACT
-- act: invoice the period (`tallybook invoice`); what was billed twice is credited
-- cadence: daily
-- setting: grace_days = 5 days after the end of a billing period within which it is invoiced
-- needs: billing_span
-- needs: worth
-- needs: booked_line
-- needs: frozen_span
WITH owed AS (
    SELECT span_id, sum(amount) AS amount
    FROM worth
    GROUP BY ALL
)
SELECT
    span.tenant_id,
    span.account_id,
    span.subscription_id,
    'not_invoiced' AS reason,
    span.subscription_id || ' from ' || strftime(span.service_start, '%Y-%m-%d') AS subject,
    owed.amount::DECIMAL(38, 21) AS amount_likely,
    span.currency,
    'AT_RISK' AS class,
    span.service_start AS occurred_at,
    'the billing period to ' || strftime(span.period_end, '%Y-%m-%d') || ' is over and no final invoice has a line of it' AS detail
FROM billing_span AS span
JOIN owed USING (span_id)
ANTI JOIN booked_line USING (span_id)
ANTI JOIN frozen_span USING (span_id)
WHERE span.is_current AND owed.amount > 0 AND span.period_end + to_days($grace_days::INTEGER) <= $as_of
UNION ALL
SELECT
    first.tenant_id,
    first.account_id,
    first.subscription_id,
    'billed_twice',
    first.subscription_id || ' ' || first.price_id || ' from ' || strftime(second.service_start, '%Y-%m-%d'),
    least(sum(first.amount), sum(second.amount)),
    first.currency,
    'OVERBILL',
    second.service_start,
    'two lines of price ' || first.price_id || ' cover the time from ' || strftime(second.service_start, '%Y-%m-%d')
FROM booked_line AS first
JOIN booked_line AS second
    ON second.subscription_id = first.subscription_id
    AND second.price_id = first.price_id
    AND second.group_key = first.group_key
    AND second.currency = first.currency
    AND (second.service_start, second.span_id) > (first.service_start, first.span_id)
    AND second.service_start < first.service_end
WHERE first.amount > 0 AND second.amount > 0
GROUP BY first.tenant_id, first.account_id, first.subscription_id, first.price_id, first.currency, second.service_start
ORDER BY ALL
