-- PREPAID_ROLL_FORWARD: what is left of each prepaid balance from month to month: opening + granted + burned + given_back + expired =
-- closing. Burns and expiry are below zero. Reads prepaid_leg (is_own: of documents of the published run) and roll_span.
-- A month in which nothing is left and nothing moves has no row.
WITH moved AS (
    SELECT
        balance_id,
        account_id,
        currency,
        date_trunc('month', posted_on)::DATE AS month,
        sum(amount) AS moved,
        sum(amount) FILTER (kind = 'granted') AS granted,
        sum(amount) FILTER (kind = 'burned') AS burned,
        sum(amount) FILTER (kind = 'given_back') AS given_back,
        sum(amount) FILTER (kind = 'expired') AS expired,
        sum(-amount) FILTER (is_own) AS used_by_this_run
    FROM prepaid_leg
    GROUP BY ALL
),
opened AS (
    SELECT
        party.*,
        span.month,
        coalesce(
            (
                SELECT sum(before.moved)
                FROM moved AS before
                WHERE before.balance_id = party.balance_id AND before.month < span.month
            ),
            0
        ) AS opening
    FROM (SELECT DISTINCT balance_id, account_id, currency FROM moved) AS party
    CROSS JOIN (
        SELECT unnest(generate_series(first_month, last_month, INTERVAL 1 MONTH))::DATE AS month FROM roll_span
    ) AS span
)
SELECT
    opened.balance_id,
    opened.account_id,
    opened.currency,
    strftime(opened.month, '%Y-%m') AS period,
    opened.opening,
    coalesce(moved.granted, 0) AS granted,
    coalesce(moved.burned, 0) AS burned,
    coalesce(moved.given_back, 0) AS given_back,
    coalesce(moved.expired, 0) AS expired,
    opened.opening + coalesce(moved.moved, 0) AS closing,
    coalesce(moved.used_by_this_run, 0) AS used_by_this_run
FROM opened
LEFT JOIN moved USING (balance_id, account_id, currency, month)
WHERE opened.opening <> 0 OR moved.month IS NOT NULL
ORDER BY ALL
