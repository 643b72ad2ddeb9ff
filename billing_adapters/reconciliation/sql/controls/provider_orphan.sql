-- control: PROVIDER_ORPHAN
-- version: 1
-- point: P7
-- compares: the documents at a provider with those that anybody here sent
-- catches: documents that were made by hand at the provider, or by another system with the same account
-- class: OVERBILL
-- owner: FIN
-- money: EXACT
-- act: void it there or book it here; documents of other products on the same account are waived by their pattern
-- cadence: daily
-- needs: document_match
-- needs: document_held
SELECT
    held.adapter,
    held.kind || '_unknown_here' AS reason,
    held.adapter || ' ' || held.provider_id AS subject,
    1 AS rows,
    abs(held.amount)::DECIMAL(38, 21) AS amount_likely,
    held.currency,
    -- A credit note that nobody booked is money that will not come.
    CASE WHEN held.amount < 0 THEN 'AT_RISK' ELSE 'OVERBILL' END AS class,
    held.created_at AS occurred_at,
    held.status || ' at the provider, made ' || strftime(held.created_at, '%Y-%m-%d') AS detail
FROM document_held AS held
JOIN document_match AS found USING (key, currency)
WHERE held.delivery_id IS NULL AND found.status = 'only_theirs' AND held.amount <> 0
ORDER BY ALL
