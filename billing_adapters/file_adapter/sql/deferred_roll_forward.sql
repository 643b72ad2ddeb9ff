-- DEFERRED_ROLL_FORWARD: what was invoiced and not yet earned, per account, currency and month:
-- opening + deferred + released + voided = closing. A liability: credits add to it, debits lower it.
-- Reads posting (legs of journal entries; is_own: those of the published run) and roll_span (its first and last month).
-- A document defers the months of a fee that come after its own; a release earns one of them on its last day. Closing is the
-- sum of all legs, whatever their kind, so that a kind which no column names would show as a row that does not add up.
-- A month in which nothing is open and nothing moves has no row.
WITH moved AS (
    SELECT
        account_id,
        currency,
        date_trunc('month', date)::DATE AS month,
        sum(credit - debit) AS moved,
        coalesce(sum(credit - debit) FILTER (kind = 'document'), 0) AS deferred,
        coalesce(sum(credit - debit) FILTER (kind = 'release'), 0) AS released,
        coalesce(sum(credit - debit) FILTER (kind = 'void'), 0) AS voided,
        coalesce(sum(credit - debit) FILTER (is_own), 0) AS of_this_run
    FROM posting
    WHERE role = 'deferred_revenue'
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
    coalesce(moved.deferred, 0) AS deferred,
    coalesce(moved.released, 0) AS released,
    coalesce(moved.voided, 0) AS voided,
    rolled.opening + coalesce(moved.moved, 0) AS closing,
    coalesce(moved.of_this_run, 0) AS of_this_run
FROM rolled
LEFT JOIN moved USING (account_id, currency, month)
WHERE rolled.opening <> 0 OR moved.month IS NOT NULL
ORDER BY ALL
