-- What came of matching the documents of a period. One row per (key, currency) of a document of the period, or of one that only
-- the provider has and that was made there in it.
CREATE OR REPLACE TABLE document_match AS
SELECT matched.*, ours.adapter, ours.invoice_id, ours.account_id, ours.document_id, NULL::VARCHAR AS provider_id
FROM matched
JOIN (
    SELECT DISTINCT concat_ws(chr(31), adapter, document_id) AS key, adapter, invoice_id, account_id, document_id
    FROM sent_document
    WHERE invoice_id IN (SELECT invoice_id FROM booked_document)
) AS ours USING (key)
UNION ALL
SELECT matched.*, held.adapter, NULL, NULL, NULL, held.provider_id
FROM matched
JOIN document_held AS held USING (key, currency)
WHERE held.delivery_id IS NULL
