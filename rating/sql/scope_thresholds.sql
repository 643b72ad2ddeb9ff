-- A close of thresholds books the open period of the accounts that reached one, and nothing of the others.
DELETE FROM line_to_book
WHERE NOT is_current
    OR span_id NOT IN (
        SELECT billing_span.span_id
        FROM billing_span
        JOIN account_reached USING (account_id, currency)
    )
