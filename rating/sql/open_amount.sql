-- What the open billing periods of each account are worth, and what was invoiced of that. One row per (account, currency).
SELECT
    worth.account_id,
    worth.currency,
    sum(worth.amount) AS worth,
    sum(worth.amount) - coalesce(any_value(to_book.amount), 0) AS invoiced
FROM worth
LEFT JOIN (
    SELECT account_id, currency, sum(amount) AS amount FROM line_to_book WHERE is_current GROUP BY ALL
) AS to_book USING (account_id, currency)
WHERE worth.is_current
GROUP BY worth.account_id, worth.currency
