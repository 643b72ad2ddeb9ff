-- What a provider has of a period. One row per document at the provider that belongs to a document of the period, or that nobody here
-- knows and that was made there in the period (UTC). `amount` is signed as in matching. Void documents are nothing.
CREATE OR REPLACE TABLE document_held AS
SELECT
    theirs.adapter,
    theirs.provider_id,
    theirs.kind,
    theirs.status,
    theirs.number,
    theirs.currency,
    ours.invoice_id,
    ours.delivery_id,
    concat_ws(chr(31), theirs.adapter, coalesce(ours.delivery_id, theirs.provider_id)) AS key,
    CASE
        WHEN theirs.status = 'void' THEN 0
        WHEN theirs.kind = 'credit_note' THEN -theirs.total
        ELSE theirs.total
    END::DECIMAL(38, 12) AS amount,
    theirs.created_at
FROM provider_document AS theirs
LEFT JOIN sent_document AS ours
    ON ours.adapter = theirs.adapter AND ours.delivery_id = theirs.delivery_id AND ours.kind <> 'void'
WHERE CASE
    WHEN ours.delivery_id IS NULL THEN theirs.created_at >= $start_instant AND theirs.created_at < $end_instant
    ELSE ours.invoice_id IN (SELECT invoice_id FROM booked_document)
END
