-- Equation confirmed = provider + timing + provider_difference, of the documents of the period, for an adapter. One row per
-- (currency, bucket).
--   confirmed            what the provider confirmed to us, from the outbox
--   provider             what it says that it has, from its own list
--   timing               ours minus theirs where one of them is too young to be compared
--   provider_difference  ours minus theirs, whatever the reason: each is a break
-- The first comes from our rows, the second from theirs, the others from matching: a key that matching loses shows.
SELECT currency, 'confirmed' AS bucket, sum(sent)::DECIMAL(38, 21) AS amount
FROM sent_document
WHERE adapter = $adapter AND sent_document.bucket = 'confirmed' AND invoice_id IN (SELECT invoice_id FROM booked_document)
GROUP BY ALL
UNION ALL
SELECT currency, 'provider', sum(amount)::DECIMAL(38, 21)
FROM document_held
WHERE adapter = $adapter
GROUP BY ALL
UNION ALL
SELECT
    currency,
    CASE WHEN status = 'timing' THEN 'timing' ELSE 'provider_difference' END,
    -sum(amount_difference)::DECIMAL(38, 21)
FROM document_match
WHERE adapter = $adapter
GROUP BY ALL
ORDER BY ALL
