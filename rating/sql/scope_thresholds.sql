-- A close of thresholds books the open period of the accounts that reached one, and nothing of the others.
DELETE FROM line_to_book
WHERE NOT is_current
    OR (account_id, currency) NOT IN (SELECT (account_id, currency) FROM account_reached)
