-- control: INVOICE_NOT_DELIVERED
-- version: 1
-- point: P6
-- compares: the final documents of the period with what each provider confirmed of them, from the outbox
-- catches: a queue that is stuck, an adapter that is misconfigured, a document that was parked and forgotten
-- class: AT_RISK
-- owner: OPS
-- money: EXACT
-- act: look at `tallybook deliveries`; correct what it says and retry, or waive it with a reason
-- cadence: delivery
-- setting: hours_max = 24 hours after its issue that a document may wait for a provider's confirmation
-- needs: delivering_adapter
-- needs: booked_document
-- needs: sent_document
WITH told AS (
    SELECT
        adapter,
        invoice_id,
        -- A void or a credit note lowers by a row of its own, so what is not confirmed is a sum.
        coalesce(sum(booked) FILTER (WHERE bucket IN ('pending', 'failed')), 0) AS undelivered,
        bool_or(bucket = 'failed') AS is_failed,
        max(attempts) FILTER (WHERE bucket IN ('pending', 'failed')) AS attempts,
        max(reason) FILTER (WHERE bucket IN ('pending', 'failed')) AS said,
        min(recover_by) FILTER (WHERE bucket IN ('pending', 'failed')) AS recover_by
    FROM sent_document
    GROUP BY adapter, invoice_id
),
undelivered AS (
    SELECT
        document.*,
        adapter.adapter,
        CASE
            WHEN told.invoice_id IS NULL THEN 'not_sent'
            WHEN told.is_failed THEN 'failed'
            ELSE 'pending'
        END AS reason,
        CASE WHEN told.invoice_id IS NULL THEN document.amount_due ELSE told.undelivered END AS amount,
        coalesce(told.attempts, 0) AS attempts,
        coalesce(told.said, '') AS said,
        told.recover_by
    FROM booked_document AS document
    CROSS JOIN delivering_adapter AS adapter
    LEFT JOIN told ON told.adapter = adapter.adapter AND told.invoice_id = document.invoice_id
    WHERE (document.status = 'final' OR told.invoice_id IS NOT NULL)
        AND document.issued_at >= adapter.delivers_from
        AND document.issued_at + to_hours($hours_max) <= $as_of
)
SELECT
    account_id,
    adapter,
    reason,
    adapter || ' ' || coalesce(number, invoice_id) AS subject,
    1 AS rows,
    abs(amount)::DECIMAL(38, 21) AS amount_likely,
    currency,
    CASE WHEN amount < 0 THEN 'OVERBILL' ELSE 'AT_RISK' END AS class,
    issued_at AS occurred_at,
    recover_by,
    'issued ' || strftime(issued_at, '%Y-%m-%d') || ', ' || attempts || ' attempt(s); ' || left(said, 200) AS detail
FROM undelivered
WHERE amount <> 0
ORDER BY ALL
