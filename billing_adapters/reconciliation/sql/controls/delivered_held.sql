-- control: DELIVERED_HELD
-- version: 1
-- point: P7
-- compares: what deliveries wrote down of a document as they delivered it (control points) with what the provider's list has of it;
--     where the list differs from the outbox, too, it is found by PROVIDER_AMOUNT
-- catches: documents that were lowered or removed there, and in the outbox as well
-- class: AT_RISK
-- owner: OPS, FIN
-- money: EXACT
-- act: ask who changed the outbox; restore it from a backup, and deliver again what the provider does not have
-- cadence: daily
-- needs: control_point
-- needs: provider_document
-- needs: document_match
-- needs: booked_document
-- needs: sent_document
WITH act AS (
    SELECT adapter, batch_id AS delivery_id, previous_batch_id AS invoice_id, currency, sum(amount) AS amount
    FROM control_point
    WHERE point = 'P6' AND reason = 'delivered' AND currency <> ''
        AND adapter IN (SELECT adapter FROM provider_document UNION SELECT adapter FROM document_match)
    GROUP BY ALL
),
theirs AS (
    SELECT adapter, delivery_id, sum(CASE WHEN kind = 'credit_note' THEN -total ELSE total END) AS amount,
        bool_and(status = 'void') AS is_void
    FROM provider_document
    WHERE delivery_id IS NOT NULL
    GROUP BY ALL
)
SELECT
    document.account_id,
    act.adapter,
    CASE WHEN act.amount > coalesce(theirs.amount, 0) THEN 'held_less' ELSE 'held_more' END AS reason,
    act.adapter || ' ' || coalesce(document.number, act.delivery_id) AS subject,
    1 AS rows,
    abs(act.amount - coalesce(theirs.amount, 0))::DECIMAL(38, 21) AS amount_likely,
    act.currency,
    CASE WHEN act.amount > coalesce(theirs.amount, 0) THEN 'AT_RISK' ELSE 'OVERBILL' END AS class,
    document.issued_at AS occurred_at,
    act.amount || ' ' || act.currency || ' delivered, ' || coalesce(theirs.amount, 0) || ' held' AS detail
FROM act
JOIN booked_document AS document ON document.invoice_id = act.invoice_id AND document.status = 'final'
LEFT JOIN theirs ON theirs.adapter = act.adapter AND theirs.delivery_id = act.delivery_id
LEFT JOIN sent_document AS outbox ON outbox.adapter = act.adapter AND outbox.delivery_id = act.delivery_id
-- Found from the outbox already, or too young to be compared.
ANTI JOIN (
    SELECT adapter, invoice_id FROM document_match WHERE amount_difference <> 0
) AS differing ON differing.adapter = act.adapter AND differing.invoice_id = act.invoice_id
WHERE act.amount <> coalesce(theirs.amount, 0)
    -- What is void there is STATUS_DRIFT; what was taken back later waits in the outbox.
    AND NOT coalesce(theirs.is_void, false)
    AND coalesce(outbox.bucket, 'confirmed') = 'confirmed'
ORDER BY ALL
