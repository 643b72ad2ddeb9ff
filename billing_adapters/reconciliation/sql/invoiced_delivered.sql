-- Equation invoiced = confirmed + pending + failed + waived + not_sent + rounding + tax, of the documents of the period, for an adapter.
-- One row per (currency, bucket).
--   invoiced   what the final documents ask for; a void one asks for nothing
--   confirmed, pending, failed, waived   what was sent of them, by what became of it
--   not_sent   what the outbox does not know of: documents from before its first day, and voids that nobody passed on yet
--   rounding   booked minus sent, where the provider takes only coarser amounts
--   tax        what taxes on top of prices add to what is asked for, below zero here: it was sent and is not in what was invoiced
-- A void takes back what its invoice brought; a document whose void was not passed on is taken back by a row made here.
WITH told AS (
    SELECT invoice_id, currency, booked, sent, bucket, kind
    FROM sent_document
    WHERE adapter = $adapter AND invoice_id IN (SELECT invoice_id FROM booked_document)
),
untold AS (
    SELECT invoice_id, currency, amount_due + tax_on_top AS booked, amount_due + tax_on_top AS sent
    FROM booked_document
    WHERE status = 'final' AND invoice_id NOT IN (SELECT invoice_id FROM told)
    UNION ALL
    SELECT told.invoice_id, told.currency, -told.booked, -told.sent
    FROM told
    JOIN booked_document AS document ON document.invoice_id = told.invoice_id AND document.status = 'void'
    WHERE told.kind = 'invoice' AND told.invoice_id NOT IN (SELECT invoice_id FROM told WHERE kind = 'void')
),
placed AS (
    SELECT currency, bucket, booked, sent FROM told
    UNION ALL
    SELECT currency, 'not_sent', booked, sent FROM untold
)
SELECT currency, 'invoiced' AS bucket, coalesce(sum(amount_due) FILTER (WHERE status = 'final'), 0)::DECIMAL(38, 21) AS amount
FROM booked_document
GROUP BY ALL
UNION ALL
SELECT currency, 'tax', coalesce(-sum(tax_on_top) FILTER (WHERE status = 'final'), 0)::DECIMAL(38, 21)
FROM booked_document
GROUP BY ALL
UNION ALL
SELECT currency, bucket, sum(sent)::DECIMAL(38, 21)
FROM placed
GROUP BY ALL
UNION ALL
SELECT currency, 'rounding', sum(booked - sent)::DECIMAL(38, 21)
FROM placed
GROUP BY ALL
ORDER BY ALL
