-- control: DUPLICATE_CONFLICT
-- version: 2
-- point: P2
-- compares: the payload of every duplicate with that of the usage event that won
-- catches: idempotency keys that are used again for something else and so swallow real usage
-- class: DATA_QUALITY
-- owner: ENG
-- money: none
-- act: say which of the two is right; give every usage event a key of its own
-- cadence: delivery
-- needs: duplicate
SELECT
    tenant_id,
    meter,
    'other_payload' AS reason,
    count(*) AS rows,
    abs(sum(quantity))::DECIMAL(38, 9) AS quantity_difference,
    count(DISTINCT idempotency_key) || ' key(s), first ' || min(idempotency_key) AS detail
FROM duplicate
WHERE is_conflict AND event_time >= $start_instant AND event_time < $end_instant
GROUP BY ALL
ORDER BY ALL
