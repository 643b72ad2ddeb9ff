-- ROLLED_MONTH: how receivables, unbilled receivables and deferred revenue went on, in debits less credits, below the roll-forwards. One
-- row per (role, account, currency, month): opening and movements make the closing, by the kind of entry that moved it; of documents
-- apart what they debit and what they credit.
-- Reads posting (legs of journal entries; is_own: those of the published run) and roll_span (its first and last month).
-- Closing is the sum of all legs, whatever their kind, so that a kind which no column names would show as a row that does not
-- add up. A month in which nothing is open and nothing moves has no row.
CREATE VIEW rolled_month AS
WITH moved AS (
    SELECT
        role,
        account_id,
        currency,
        date_trunc('month', date)::DATE AS month,
        sum(debit - credit) AS moved,
        sum(debit - credit) FILTER (kind = 'accrual') AS accrual,
        sum(debit - credit) FILTER (kind = 'document') AS document,
        sum(debit) FILTER (kind = 'document') AS document_debit,
        sum(-credit) FILTER (kind = 'document') AS document_credit,
        sum(debit - credit) FILTER (kind = 'release') AS release,
        sum(debit - credit) FILTER (kind = 'payment') AS payment,
        sum(debit - credit) FILTER (kind = 'refund') AS refund,
        sum(debit - credit) FILTER (kind = 'write_off') AS write_off,
        sum(debit - credit) FILTER (kind = 'void') AS void,
        sum(debit - credit) FILTER (is_own) AS of_this_run
    FROM posting
    WHERE role IN ('receivables', 'unbilled_receivables', 'deferred_revenue')
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
                WHERE before.role = party.role
                    AND before.account_id = party.account_id
                    AND before.currency = party.currency
                    AND before.month < span.month
            ),
            0
        ) AS opening
    FROM (SELECT DISTINCT role, account_id, currency FROM moved) AS party
    CROSS JOIN (
        SELECT unnest(generate_series(first_month, last_month, INTERVAL 1 MONTH))::DATE AS month FROM roll_span
    ) AS span
)
SELECT
    opened.role,
    opened.account_id,
    opened.currency,
    opened.month,
    strftime(opened.month, '%Y-%m') AS period,
    opened.opening,
    coalesce(moved.accrual, 0) AS accrual,
    coalesce(moved.document, 0) AS document,
    coalesce(moved.document_debit, 0) AS document_debit,
    coalesce(moved.document_credit, 0) AS document_credit,
    coalesce(moved.release, 0) AS release,
    coalesce(moved.payment, 0) AS payment,
    coalesce(moved.refund, 0) AS refund,
    coalesce(moved.write_off, 0) AS write_off,
    coalesce(moved.void, 0) AS void,
    opened.opening + coalesce(moved.moved, 0) AS closing,
    coalesce(moved.of_this_run, 0) AS of_this_run
FROM opened
LEFT JOIN moved USING (role, account_id, currency, month)
WHERE opened.opening <> 0 OR moved.month IS NOT NULL
