-- control: DISCOUNT_ENDLESS
-- version: 1
-- point: P4
-- compares: the discounts that lower what the period is worth with their terms: how long they have held, and that nothing ends them
-- catches: promotions that never stop
-- class: INFO
-- owner: FIN, SALES
-- money: EXACT
-- act: give the discount an end, or waive it for as long as the contract says
-- cadence: close
-- setting: months_max = 12 months after which a discount without an end is looked at
-- needs: charge
-- needs: billing_span
-- needs: discount_term
WITH given AS (
    SELECT
        span.tenant_id,
        span.account_id,
        span.subscription_id,
        span.currency,
        substr(charge.part, length('discount:') + 1) AS discount_id,
        sum(-charge.exact_amount) AS amount
    FROM charge
    JOIN billing_span AS span USING (span_id)
    WHERE starts_with(charge.part, 'discount:') AND span.is_current
    GROUP BY ALL
    HAVING sum(-charge.exact_amount) > 0
)
SELECT
    given.tenant_id,
    given.account_id,
    given.subscription_id,
    'without_an_end' AS reason,
    given.subscription_id || ' ' || given.discount_id AS subject,
    min(given.amount)::DECIMAL(38, 21) AS amount_likely,
    given.currency,
    'discount ' || given.discount_id || ' has held since ' || strftime(min(term.begins_at), '%Y-%m-%d')
        || ' and nothing ends it; this is what it took in the period' AS detail
FROM given
JOIN discount_term AS term USING (subscription_id, discount_id)
WHERE term.ends_at IS NULL
    AND term.periods IS NULL
    AND term.begins_at <= $start_instant - to_months($months_max::INTEGER)
GROUP BY given.tenant_id, given.account_id, given.subscription_id, given.discount_id, given.currency
ORDER BY ALL
