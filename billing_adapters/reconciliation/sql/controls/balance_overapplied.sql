-- control: BALANCE_OVERAPPLIED
-- version: 1
-- point: P5
-- compares: what prepaid balances were granted, and for what, with what final invoices took of them
-- catches: balances that paid more than they hold, after they expired, in another currency, or for prices they are not for
-- class: AT_RISK
-- owner: FIN
-- money: EXACT
-- act: invoice what the balance should not have paid; a top-up that was entered late is written into the catalog
-- cadence: close
-- needs: balance_term
-- needs: balance_burn
WITH applied AS (
    SELECT burn.*, term.account_id AS owner_id, term.currency AS granted_currency, term.amount AS granted, term.starts_at,
        term.ends_at, term.prices, term.balance_id IS NULL AS is_unknown
    FROM balance_burn AS burn
    LEFT JOIN balance_term AS term USING (balance_id)
),
judged AS (
    SELECT
        *,
        CASE
            WHEN is_unknown THEN 'no_such_balance'
            WHEN currency <> granted_currency THEN 'other_currency'
            WHEN service_start >= coalesce(ends_at, TIMESTAMPTZ '9999-01-01 00:00:00+00') THEN 'after_its_end'
            WHEN service_end <= starts_at THEN 'before_its_start'
            WHEN len(prices) > 0 AND NOT list_contains(prices, price_id) THEN 'excluded_price'
            WHEN account_id <> owner_id THEN 'other_account'
        END AS reason
    FROM applied
)
SELECT
    account_id,
    reason,
    balance_id AS subject,
    count(*) AS rows,
    sum(amount)::DECIMAL(38, 21) AS amount_likely,
    currency,
    min(issued_at) AS occurred_at,
    'balance ' || balance_id || ' paid ' || sum(amount) || ' ' || currency || ' that it is not for' AS detail
FROM judged
WHERE reason IS NOT NULL
GROUP BY account_id, reason, balance_id, currency
HAVING sum(amount) > 0
UNION ALL
SELECT
    min(account_id),
    'overdrawn',
    balance_id,
    count(*),
    sum(amount) - min(granted),
    min(currency),
    max(issued_at),
    'balance ' || balance_id || ' holds ' || min(granted) || ' and paid ' || sum(amount) || ' ' || min(currency)
FROM judged
WHERE NOT is_unknown
GROUP BY balance_id
HAVING sum(amount) > min(granted)
ORDER BY ALL
