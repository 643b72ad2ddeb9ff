-- control: DISCOUNT_OVERUSED
-- version: 1
-- point: P5
-- compares: in how many billing periods final invoices gave a discount with how many its terms allow (`periods`)
-- catches: introductory prices that go on, a number of periods that was lowered after it had been used up
-- class: AT_RISK
-- owner: FIN, SALES
-- money: EXACT
-- act: the next close takes it back as a correction; what was promised for longer is written into the catalog
-- cadence: close
-- needs: discount_given
-- needs: discount_term
-- needs: billing_span
WITH given AS (
    SELECT tenant_id, account_id, subscription_id, discount_id, currency, period_start, sum(discount_given.amount) AS amount
    FROM discount_given
    GROUP BY ALL
    -- What a correction took back was not given.
    HAVING sum(discount_given.amount) > 0
),
numbered AS (
    SELECT *, dense_rank() OVER (PARTITION BY subscription_id, discount_id ORDER BY period_start) AS number
    FROM given
),
allowed AS (
    -- A discount of the same id may stand at the plan and at the account: what allows the most decides; null has no limit.
    SELECT subscription_id, discount_id, max(discount_term.periods) AS periods
    FROM discount_term
    GROUP BY ALL
    HAVING count(*) = count(discount_term.periods)
)
SELECT
    numbered.tenant_id,
    numbered.account_id,
    numbered.subscription_id,
    'after_its_periods' AS reason,
    numbered.subscription_id || ' ' || numbered.discount_id AS subject,
    sum(numbered.amount)::DECIMAL(38, 21) AS amount_likely,
    numbered.currency,
    min(numbered.period_start) AS occurred_at,
    'discount ' || numbered.discount_id || ' is for ' || allowed.periods || ' billing period(s); this is number '
        || max(numbered.number) AS detail
FROM numbered
JOIN allowed USING (subscription_id, discount_id)
SEMI JOIN billing_span AS span
    ON span.subscription_id = numbered.subscription_id AND span.period_start = numbered.period_start
WHERE numbered.number > allowed.periods
GROUP BY numbered.tenant_id, numbered.account_id, numbered.subscription_id, numbered.discount_id, numbered.currency, allowed.periods
ORDER BY ALL
