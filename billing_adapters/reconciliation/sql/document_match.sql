-- What came of matching the documents of a period for an adapter. One row per (key, currency) of a document of the period, or of one
-- that only the provider has and that was made there in it. `is_void_there`: all that the provider has of it is void.
WITH there AS (
    SELECT key, currency, bool_and(status = 'void') AS is_void_there
    FROM document_held
    WHERE adapter = $adapter
    GROUP BY ALL
)
SELECT
    matched.*,
    ours.adapter,
    ours.invoice_id,
    ours.account_id,
    ours.number,
    NULL::VARCHAR AS provider_id,
    coalesce(there.is_void_there, false) AS is_void_there
FROM matched
JOIN (
    SELECT DISTINCT concat_ws(chr(31), adapter, document_id) AS key, adapter, invoice_id, account_id, number
    FROM sent_document
    WHERE adapter = $adapter AND invoice_id IN (SELECT invoice_id FROM booked_document)
) AS ours USING (key)
LEFT JOIN there USING (key, currency)
UNION ALL
SELECT matched.*, held.adapter, NULL, NULL, held.number, held.provider_id, held.status = 'void'
FROM matched
JOIN document_held AS held USING (key, currency)
WHERE held.adapter = $adapter AND held.delivery_id IS NULL
