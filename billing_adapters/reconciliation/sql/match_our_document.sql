-- What a provider confirmed of our documents, as one side of matching. One row per delivery; of one document at the provider all
-- rows have the same key: an invoice and its void add up to nothing. Amounts are what was sent, in the provider's units.
SELECT
    concat_ws(chr(31), adapter, document_id) AS key,
    currency,
    1::BIGINT AS detail_rows,
    NULL::DECIMAL(38, 12) AS quantity,
    sent AS amount,
    ended_at AS occurred_at
FROM sent_document
WHERE adapter = $adapter AND bucket = 'confirmed'
