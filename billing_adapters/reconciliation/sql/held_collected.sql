-- Equation provider = paid + open + credit_notes + refunds + disputes + written_off + to_balance + provider_fee, of what a provider
-- has of the period, for an adapter. One row per (currency, bucket).
--   provider      what it says that it has: invoices minus credit notes, from its list of documents
--   the others    what became of that money, from its list of payments; `paid` without the provider's fee
--   credit_notes  what lowered invoices of the period minus the credit notes of the period: 0 if these are the same
--   refunds       what was given back of what had been paid; below zero
WITH part AS (
    SELECT held.currency, payment.* EXCLUDE (currency)
    FROM document_held AS held
    JOIN provider_payment AS payment USING (adapter, provider_id)
    WHERE adapter = $adapter
)
SELECT currency, 'provider' AS bucket, sum(amount)::DECIMAL(38, 21) AS amount
FROM document_held
WHERE adapter = $adapter
GROUP BY ALL
UNION ALL
SELECT currency, bucket, sum(amount)::DECIMAL(38, 21)
FROM (
    SELECT currency, unnest([
        {bucket: 'paid', amount: paid - fee},
        {bucket: 'provider_fee', amount: fee},
        {bucket: 'open', amount: open},
        {bucket: 'credit_notes', amount: credited},
        {bucket: 'refunds', amount: refunded},
        {bucket: 'disputes', amount: disputed},
        {bucket: 'written_off', amount: written_off},
        {bucket: 'to_balance', amount: to_balance}
    ], recursive := true)
    FROM part
)
GROUP BY ALL
ORDER BY ALL
