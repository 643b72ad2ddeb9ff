-- What the open billing periods of each account are worth, and what was invoiced of that. One row per (account, currency).
SELECT
    billing_span.account_id,
    billing_span.currency,
    sum(worth_line.amount) AS worth,
    sum(worth_line.amount) - coalesce(sum(line_to_book.amount), 0) AS invoiced
FROM worth_line
JOIN billing_span USING (span_id)
LEFT JOIN line_to_book USING (span_id, price_id, group_key)
WHERE billing_span.is_current
GROUP BY billing_span.account_id, billing_span.currency
