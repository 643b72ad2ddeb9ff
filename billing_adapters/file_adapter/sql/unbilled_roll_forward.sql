-- UNBILLED_ROLL_FORWARD: what was earned and not yet invoiced, per account, currency and month: opening + accrued + invoiced = closing.
-- Reads posting (legs of journal entries; is_own: those of the published run) and roll_span (its first and last month).
-- An accrual debits unbilled receivables in the month of the usage; the document credits them on its day of issue. A void
-- takes back both together, so it moves nothing here. Closing is the sum of all legs, whatever their kind, so that a kind which no column names
-- would show as a row that does not add up. A month in which nothing is open and nothing moves has no row.
WITH moved AS (
    SELECT
        account_id,
        currency,
        date_trunc('month', date)::DATE AS month,
        sum(debit - credit) AS moved,
        coalesce(sum(debit - credit) FILTER (kind = 'accrual'), 0) AS accrued,
        coalesce(sum(debit - credit) FILTER (kind = 'document'), 0) AS invoiced,
        coalesce(sum(debit - credit) FILTER (is_own), 0) AS of_this_run
    FROM posting
    WHERE role = 'unbilled_receivables'
    GROUP BY ALL
),
rolled AS (
    SELECT
        party.account_id,
        party.currency,
        span.month,
        coalesce(
            (
                SELECT sum(before.moved)
                FROM moved AS before
                WHERE before.account_id = party.account_id AND before.currency = party.currency AND before.month < span.month
            ),
            0
        ) AS opening
    FROM (SELECT DISTINCT account_id, currency FROM moved) AS party
    CROSS JOIN (
        SELECT unnest(generate_series(first_month, last_month, INTERVAL 1 MONTH))::DATE AS month FROM roll_span
    ) AS span
)
SELECT
    rolled.account_id,
    rolled.currency,
    strftime(rolled.month, '%Y-%m') AS period,
    rolled.opening,
    coalesce(moved.accrued, 0) AS accrued,
    coalesce(moved.invoiced, 0) AS invoiced,
    rolled.opening + coalesce(moved.moved, 0) AS closing,
    coalesce(moved.of_this_run, 0) AS of_this_run
FROM rolled
LEFT JOIN moved USING (account_id, currency, month)
WHERE rolled.opening <> 0 OR moved.month IS NOT NULL
ORDER BY ALL
