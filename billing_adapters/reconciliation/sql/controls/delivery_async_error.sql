-- control: DELIVERY_ASYNC_ERROR
-- version: 2
-- point: P6
-- compares: what a provider accepted at once with what it refused afterwards, in its late reports
-- catches: usage that was answered with success and is never billed
-- class: AT_RISK
-- owner: ENG
-- money: E1
-- act: correct the cause that the report names and retry; reports name samples only, so look at PROVIDER_QUANTITY as well
-- cadence: delivery
-- needs: sent_quantity
SELECT
    min(tenant_id) AS tenant_id,
    account_id,
    subscription_id,
    coalesce(min(meter), name) AS meter,
    adapter,
    'refused_later' AS reason,
    adapter || ' ' || subscription_id AS subject,
    count(*) AS rows,
    abs(sum(quantity))::DECIMAL(38, 9) AS quantity_difference,
    min(start) AS occurred_at,
    min(recover_by) AS recover_by,
    'first ' || min(strftime(start, '%Y-%m-%dT%H:%MZ') || ': ' || left(sent_quantity.reason, 150)) AS detail,
    min(delivery_id, 20) AS evidence_sample
FROM sent_quantity
WHERE is_refused_later AND bucket = 'failed' AND start >= $start_instant AND start < $end_instant
GROUP BY account_id, subscription_id, name, adapter
ORDER BY ALL
