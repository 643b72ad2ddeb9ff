-- The documents at a provider, as the other side of matching. One row per document there; a credit note is below zero, what is void
-- is nothing. One that names a delivery of ours has its key; all others have a key that nothing of ours has. What is there while
-- we do not know it yet (an answer is awaited) is younger than any cut, so that its difference is `timing`.
SELECT
    concat_ws(chr(31), theirs.adapter, coalesce(ours.delivery_id, theirs.provider_id)) AS key,
    theirs.currency,
    1::BIGINT AS detail_rows,
    NULL::DECIMAL(38, 12) AS quantity,
    CASE
        WHEN theirs.status = 'void' THEN 0
        WHEN theirs.kind = 'credit_note' THEN -theirs.total
        ELSE theirs.total
    END::DECIMAL(38, 12) AS amount,
    CASE WHEN ours.bucket = 'pending' THEN $for_ever ELSE theirs.created_at END AS occurred_at
FROM provider_document AS theirs
LEFT JOIN sent_document AS ours
    ON ours.adapter = theirs.adapter AND ours.delivery_id = theirs.delivery_id AND ours.kind <> 'void'
WHERE theirs.adapter = $adapter
