-- control: DELIVERY_DUPLICATE
-- version: 1
-- point: P6
-- compares: what was sent once with how often, and how much of it, the provider has
-- catches: replays after a key of the provider expired, failover to another region, two styles of identity at once
-- class: OVERBILL
-- owner: ENG
-- money: E1
-- act: void or credit the surplus document; cancel the surplus event while the provider takes that, else book a credit note
-- cadence: daily
-- needs: document_match
-- needs: quantity_match
SELECT
    NULL AS tenant_id,
    account_id,
    NULL AS meter,
    adapter,
    'document_twice' AS reason,
    adapter || ' ' || coalesce(number, invoice_id) AS subject,
    their_rows - 1 AS rows,
    NULL::DECIMAL(38, 9) AS quantity_expected,
    NULL::DECIMAL(38, 9) AS quantity_actual,
    NULL::DECIMAL(38, 9) AS quantity_difference,
    abs(amount_difference)::DECIMAL(38, 21) AS amount_likely,
    nullif(document_match.currency, '') AS currency,
    NULL::TIMESTAMPTZ AS occurred_at,
    their_rows || ' documents for one delivery, ' || their_amount || ' ' || document_match.currency
        || ' in place of ' || our_amount AS detail
FROM document_match
WHERE their_rows > 1 AND our_rows > 0 AND amount_difference > 0
UNION ALL
SELECT
    min(tenant_id),
    account_id,
    coalesce(min(meter), name),
    adapter,
    'more_than_sent',
    adapter || ' ' || account_id,
    count(*),
    sum(our_quantity)::DECIMAL(38, 9),
    sum(their_quantity)::DECIMAL(38, 9),
    sum(quantity_difference)::DECIMAL(38, 9),
    NULL,
    NULL,
    min(start),
    count(*) || ' window(s), first ' || min(strftime(start, '%Y-%m-%dT%H:%MZ') || ': they have ' || their_quantity || ', we sent '
        || coalesce(our_quantity, 0))
FROM quantity_match
WHERE status IN ('quantity_differs', 'only_theirs') AND quantity_difference > 0
GROUP BY account_id, name, adapter
ORDER BY ALL
