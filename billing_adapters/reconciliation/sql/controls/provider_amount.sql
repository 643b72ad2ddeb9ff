-- control: PROVIDER_AMOUNT
-- version: 2
-- point: P7
-- compares: the amount of every document that a provider confirmed with what its own list says of it now, tax apart
-- catches: documents that were changed or deleted at the provider, a currency that was mistaken, tax that nobody booked
-- class: AT_RISK
-- owner: FIN
-- money: EXACT
-- act: ask who changed it; a credit note or a supplementary invoice makes both sides agree again
-- cadence: daily
-- needs: document_match
-- needs: provider_document
SELECT
    account_id,
    adapter,
    CASE status WHEN 'only_ours' THEN 'gone' WHEN 'timing' THEN 'not_settled' ELSE status END AS reason,
    adapter || ' ' || coalesce(number, invoice_id, provider_id)
        || CASE WHEN status = 'currency_differs' THEN ' ' || currency ELSE '' END AS subject,
    1 AS rows,
    abs(amount_difference)::DECIMAL(38, 21) AS amount_likely,
    currency,
    CASE
        WHEN status = 'timing' THEN 'TIMING'
        WHEN amount_difference > 0 THEN 'OVERBILL'
        ELSE 'AT_RISK'
    END AS class,
    'ours ' || coalesce(our_amount::VARCHAR, 'nothing')
        || ', theirs ' || coalesce(their_amount::VARCHAR, 'nothing') || ' ' || currency AS detail
FROM document_match
WHERE status IN ('amount_differs', 'only_ours', 'currency_differs', 'timing')
    -- What is void there is STATUS_DRIFT, what is there twice DELIVERY_DUPLICATE: each difference is found once.
    AND amount_difference <> 0
    AND NOT (their_rows > 1 AND amount_difference > 0)
    AND NOT is_void_there
UNION ALL
SELECT
    NULL,
    theirs.adapter,
    'tax_at_provider',
    theirs.adapter || ' ' || coalesce(theirs.number, theirs.provider_id),
    1,
    abs(abs(theirs.tax) - abs(booked.tax))::DECIMAL(38, 21),
    theirs.currency,
    'OVERBILL',
    'the provider says tax of ' || theirs.tax || ' ' || theirs.currency || ' on ' || theirs.net || ', ours is ' || abs(booked.tax)
FROM provider_document AS theirs
JOIN booked_document AS booked USING (invoice_id)
-- A credit note at Stripe says its tax in words only; and where it takes coarser amounts, less than a hundredth is carried.
WHERE theirs.tax <> 0 AND theirs.status <> 'void' AND abs(abs(theirs.tax) - abs(booked.tax)) >= 0.01
    -- Where the total differs by it, the difference is found above.
    AND NOT EXISTS (
        SELECT 1
        FROM document_match AS found
        WHERE found.adapter = theirs.adapter AND found.invoice_id = theirs.invoice_id AND found.amount_difference <> 0
    )
ORDER BY ALL
