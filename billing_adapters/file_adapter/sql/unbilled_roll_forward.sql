-- UNBILLED_ROLL_FORWARD: what was earned and not yet invoiced, per account, currency and month: opening + accrued + invoiced = closing.
-- An accrual debits unbilled receivables in the month of the usage; the document credits them on its day of issue. A void
-- takes back both together, so it moves nothing here. Reads rolled_month.
SELECT account_id, currency, period, opening, accrual AS accrued, document AS invoiced, closing, of_this_run
FROM rolled_month
WHERE role = 'unbilled_receivables'
ORDER BY ALL
