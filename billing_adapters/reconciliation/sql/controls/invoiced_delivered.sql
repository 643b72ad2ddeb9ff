-- control: INVOICED_DELIVERED
-- version: 1
-- point: P6
-- compares: the documents that the closes of the period made with what deliveries were meant to bring of them, and what the outbox
--     calls delivered with the acts that delivered it (all control points); what was never meant is INVOICE_NOT_DELIVERED
-- catches: amounts that change on the way from paper to the outbox, an outbox that somebody edited
-- class: AT_RISK
-- owner: OPS
-- money: EXACT
-- act: read what the provider has (`tallybook provider read`), and void and bill again what it has otherwise
-- cadence: delivery
-- setting: carried_max = 1 unit of the currency that all documents of an account may leave over, where a provider takes no cents
-- needs: delivering_adapter
-- needs: control_point
-- needs: close_document
-- needs: booked_document
-- needs: sent_document
WITH made AS (
    SELECT close_document.invoice_id, point.account_id, point.currency, point.reason AS document_type, point.amount
    FROM control_point AS point
    JOIN close_document
        ON close_document.close_id = point.batch_id
        AND close_document.account_id = point.account_id
        AND close_document.currency = point.currency
        AND close_document.document_type = point.reason
    WHERE point.point = 'P5'
),
act AS (
    SELECT
        adapter,
        previous_batch_id AS invoice_id,
        sum(amount) FILTER (reason = 'meant') AS meant,
        coalesce(bool_or(reason = 'delivered'), false) AS is_delivered
    FROM control_point
    WHERE point = 'P6'
    GROUP BY ALL
),
outbox AS (
    SELECT
        adapter,
        invoice_id,
        account_id,
        currency,
        coalesce(sum(booked - sent) FILTER (kind = 'invoice'), 0) AS left_over,
        bool_or(bucket = 'confirmed' AND kind <> 'void') AS is_confirmed
    FROM sent_document
    GROUP BY ALL
),
carrying AS (
    -- What a provider takes may be coarser than what is booked; the rest is carried into the next document, so that it does not grow.
    SELECT *, CASE WHEN abs(sum(left_over) OVER (PARTITION BY adapter, account_id, currency)) < $carried_max
        THEN left_over ELSE 0 END AS carried
    FROM outbox
),
compared AS (
    SELECT
        outbox.adapter,
        made.invoice_id,
        made.account_id,
        made.currency,
        made.document_type,
        document.issued_at,
        coalesce(document.number, made.invoice_id) AS named,
        made.amount + document.tax_on_top AS asked,
        coalesce(act.meant, 0) + outbox.carried AS meant,
        coalesce(act.is_delivered, false) AS is_delivered,
        outbox.is_confirmed
    FROM made
    JOIN booked_document AS document USING (invoice_id)
    JOIN carrying AS outbox USING (invoice_id)
    JOIN delivering_adapter AS adapter ON adapter.adapter = outbox.adapter AND document.issued_at >= adapter.delivers_from
    LEFT JOIN act ON act.adapter = outbox.adapter AND act.invoice_id = made.invoice_id
),
differing AS (
    -- A credit note is meant in parts, one for each invoice that it lowers; what lowers none is paid out by hand.
    SELECT *, 'meant_otherwise' AS reason, abs(asked - meant) AS difference, meant > asked AS is_more
    FROM compared
    WHERE document_type <> 'credit_note' AND meant <> asked
    UNION ALL
    SELECT *, 'delivered_without_an_act', abs(asked), false
    FROM compared
    WHERE is_confirmed AND NOT is_delivered AND asked <> 0
)
SELECT
    account_id,
    adapter,
    reason,
    adapter || ' ' || named AS subject,
    1 AS rows,
    difference::DECIMAL(38, 21) AS amount_likely,
    currency,
    CASE WHEN is_more THEN 'OVERBILL' ELSE 'AT_RISK' END AS class,
    issued_at AS occurred_at,
    'the close asked for ' || asked || ' ' || currency || '; deliveries were meant to bring ' || meant AS detail
FROM differing
ORDER BY ALL
