-- RECEIVABLES_ROLL_FORWARD: what is asked for and not yet settled, per account, currency and month:
-- opening + invoiced + credited + voided + paid + refunded + written_off = closing, and the closing by age of what is open.
-- Open is what the legs of one document leave at the end of the month; it is as old as that day is past the last day on which it was to
-- be paid. What is below zero (credit notes, what was paid too much) is unapplied: nobody said which document it settles.
-- Reads rolled_month, posting and document_due.
WITH month_end AS (
    SELECT DISTINCT month, last_day(month) AS day FROM rolled_month WHERE role = 'receivables'
),
left_open AS (
    SELECT posting.account_id, posting.currency, month_end.month, posting.invoice_id,
        date_diff('day', any_value(document_due.due_on), any_value(month_end.day)) AS days,
        sum(posting.debit - posting.credit) AS amount
    FROM posting
    JOIN month_end ON posting.date <= month_end.day
    JOIN document_due USING (invoice_id)
    WHERE posting.role = 'receivables'
    GROUP BY posting.account_id, posting.currency, month_end.month, posting.invoice_id
),
aged AS (
    SELECT account_id, currency, month,
        sum(amount) FILTER (amount < 0) AS unapplied,
        sum(amount) FILTER (amount > 0 AND days <= 0) AS not_due,
        sum(amount) FILTER (amount > 0 AND days BETWEEN 1 AND 30) AS overdue_1_30,
        sum(amount) FILTER (amount > 0 AND days BETWEEN 31 AND 60) AS overdue_31_60,
        sum(amount) FILTER (amount > 0 AND days BETWEEN 61 AND 90) AS overdue_61_90,
        sum(amount) FILTER (amount > 0 AND days > 90) AS overdue_above_90
    FROM left_open
    GROUP BY ALL
)
SELECT
    rolled.account_id,
    rolled.currency,
    rolled.period,
    rolled.opening,
    rolled.document_debit AS invoiced,
    rolled.document_credit AS credited,
    rolled.void AS voided,
    rolled.payment AS paid,
    rolled.refund AS refunded,
    rolled.write_off AS written_off,
    rolled.closing,
    coalesce(aged.unapplied, 0) AS unapplied,
    coalesce(aged.not_due, 0) AS not_due,
    coalesce(aged.overdue_1_30, 0) AS overdue_1_30,
    coalesce(aged.overdue_31_60, 0) AS overdue_31_60,
    coalesce(aged.overdue_61_90, 0) AS overdue_61_90,
    coalesce(aged.overdue_above_90, 0) AS overdue_above_90,
    rolled.of_this_run
FROM rolled_month AS rolled
LEFT JOIN aged USING (account_id, currency, month)
WHERE rolled.role = 'receivables'
ORDER BY ALL
