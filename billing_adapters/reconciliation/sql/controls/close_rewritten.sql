-- control: CLOSE_REWRITTEN
-- version: 1
-- point: P5
-- compares: what the closes of the period wrote down of their documents as they made them (control points) with the documents that
--     the books have of these closes now, void ones among them
-- catches: documents that were changed, added or removed in the books afterwards
-- class: AT_RISK
-- owner: FIN
-- money: EXACT
-- act: find out who wrote to the books; restore the documents from a backup or from the published files, and void what is wrong
-- cadence: close
-- needs: control_point
-- needs: close_document
WITH written AS (
    SELECT batch_id AS close_id, account_id, currency, reason AS document_type, sum(amount) AS amount, sum(event_count) AS rows
    FROM control_point
    WHERE point = 'P5' AND reason NOT IN ('line', 'prepaid', 'void')
    GROUP BY ALL
),
held AS (
    SELECT close_id, account_id, currency, document_type, sum(amount_due) AS amount, count(*) AS rows
    FROM close_document
    -- A close from before there were control points wrote none.
    WHERE close_id IN (SELECT batch_id FROM control_point)
    GROUP BY ALL
)
SELECT
    account_id,
    CASE WHEN coalesce(held.amount, 0) < coalesce(written.amount, 0) THEN 'less_than_written' ELSE 'more_than_written' END AS reason,
    close_id || ' ' || document_type || ' ' || currency AS subject,
    greatest(coalesce(written.rows, 0), coalesce(held.rows, 0))::BIGINT AS rows,
    abs(coalesce(held.amount, 0) - coalesce(written.amount, 0))::DECIMAL(38, 21) AS amount_likely,
    currency,
    CASE WHEN coalesce(held.amount, 0) < coalesce(written.amount, 0) THEN 'AT_RISK' ELSE 'OVERBILL' END AS class,
    'the close made ' || coalesce(written.rows, 0) || ' document(s) of ' || coalesce(written.amount, 0) || ' ' || currency
        || '; the books have ' || coalesce(held.rows, 0) || ' of ' || coalesce(held.amount, 0) AS detail
FROM written
FULL JOIN held USING (close_id, account_id, currency, document_type)
WHERE (written.amount, written.rows) IS DISTINCT FROM (held.amount, held.rows)
ORDER BY ALL
