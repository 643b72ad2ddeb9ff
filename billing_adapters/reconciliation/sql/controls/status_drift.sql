-- control: STATUS_DRIFT
-- version: 1
-- point: P7
-- compares: what a document is in the books with what it is at the provider
-- catches: decisions that were taken at the provider alone: voided, written off
-- class: AT_RISK
-- owner: FIN
-- money: EXACT
-- act: take the decision here as well, by a void or a credit note, or take it back there
-- cadence: daily
-- needs: document_match
-- needs: document_held
-- needs: provider_payment
SELECT
    account_id,
    adapter,
    'void_at_provider' AS reason,
    adapter || ' ' || coalesce(number, invoice_id) AS subject,
    1 AS rows,
    abs(amount_difference)::DECIMAL(38, 21) AS amount_likely,
    currency,
    CASE WHEN amount_difference > 0 THEN 'OVERBILL' ELSE 'AT_RISK' END AS class,
    NULL::TIMESTAMPTZ AS occurred_at,
    'final here with ' || our_amount || ' ' || currency || ', void there' AS detail
FROM document_match
WHERE is_void_there AND status <> 'timing' AND our_amount <> 0 AND amount_difference <> 0
UNION ALL
SELECT
    NULL,
    payment.adapter,
    'written_off_at_provider',
    payment.adapter || ' ' || coalesce(held.number, payment.provider_id),
    1,
    payment.written_off::DECIMAL(38, 21),
    payment.currency,
    'AT_RISK',
    held.created_at,
    payment.status || ' at the provider; ' || payment.paid || ' ' || payment.currency || ' of it was paid'
FROM provider_payment AS payment
JOIN document_held AS held USING (adapter, provider_id)
WHERE payment.written_off > 0
ORDER BY ALL
