-- control: REFUND_EXCESS
-- version: 1
-- point: P8
-- compares: what was given back of an invoice, by credit notes and refunds, with what it asked for
-- catches: refunds that were made twice, refunds without a reason, a habit of giving back
-- class: LOST
-- owner: FIN
-- money: EXACT
-- act: ask who approved it; goodwill with an approval is waived
-- cadence: daily
-- setting: share_max = 0.03 of what was invoiced that may be given back before it is a habit
-- setting: documents_min = 100 invoices of a currency before that share says anything
-- needs: document_held
-- needs: provider_document
-- needs: provider_payment
WITH given_back AS (
    SELECT adapter, lowers AS provider_id, sum(total) AS amount, bool_or(coalesce(trim(reason), '') = '') AS lacks_reason
    FROM provider_document
    WHERE kind = 'credit_note' AND status <> 'void'
    GROUP BY adapter, lowers
),
invoice AS (
    SELECT
        theirs.adapter,
        theirs.provider_id,
        coalesce(theirs.number, theirs.provider_id) AS subject,
        theirs.currency,
        theirs.total,
        theirs.created_at,
        -- Refunds without a credit note are below zero on the invoice's own row.
        coalesce(given_back.amount, 0) - coalesce(payment.refunded, 0) AS given_back,
        coalesce(given_back.lacks_reason, false) AS lacks_reason
    FROM provider_document AS theirs
    SEMI JOIN document_held USING (adapter, provider_id)
    LEFT JOIN given_back USING (adapter, provider_id)
    LEFT JOIN provider_payment AS payment USING (adapter, provider_id)
    WHERE theirs.kind = 'invoice' AND theirs.status <> 'void'
)
SELECT
    adapter,
    'above_original' AS reason,
    adapter || ' ' || subject AS subject,
    1 AS rows,
    (given_back - greatest(total, 0))::DECIMAL(38, 21) AS amount_likely,
    currency,
    'LOST' AS class,
    created_at AS occurred_at,
    given_back || ' ' || currency || ' given back of ' || total AS detail
FROM invoice
WHERE given_back > greatest(total, 0)
UNION ALL
SELECT
    adapter,
    'without_reason',
    adapter || ' ' || subject,
    1,
    given_back::DECIMAL(38, 21),
    currency,
    'DATA_QUALITY',
    created_at,
    given_back || ' ' || currency || ' given back, and no reason is there'
FROM invoice
WHERE lacks_reason AND given_back > 0 AND given_back <= greatest(total, 0)
UNION ALL
SELECT
    adapter,
    'share_given_back',
    adapter || ' ' || currency,
    count(*),
    sum(given_back)::DECIMAL(38, 21),
    currency,
    'INFO',
    max(created_at),
    sum(given_back) || ' of ' || sum(total) || ' ' || currency || ' was given back'
FROM invoice
GROUP BY adapter, currency
HAVING count(*) >= $documents_min AND sum(given_back) > sum(total) * $share_max
ORDER BY ALL
