-- JOURNAL_UNBALANCED compares, entry by entry and currency by currency, debits with credits. One row per entry that does not
-- balance; there is never one.
SELECT entry_id, currency, sum(debit) AS debit, sum(credit) AS credit
FROM journal_entry
GROUP BY entry_id, currency
HAVING sum(journal_entry.debit) <> sum(journal_entry.credit)
ORDER BY entry_id
LIMIT 10
