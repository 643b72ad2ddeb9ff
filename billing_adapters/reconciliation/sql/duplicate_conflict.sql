-- DUPLICATE_CONFLICT compares the payload of every duplicate with that of the usage event that won.
-- Catches idempotency keys that are used again for something else (a request path, a time in seconds) and so swallow real
-- usage. Class DATA_QUALITY: nothing is lost that was not said twice, but somebody must say which is right. Acts: ENG.
-- One row per (tenant, meter).
SELECT
    tenant_id,
    meter,
    'other_payload' AS reason,
    count(*) AS rows,
    sum(quantity)::DECIMAL(38, 9) AS quantity_difference,
    count(DISTINCT idempotency_key) || ' key(s), first ' || min(idempotency_key) AS detail
FROM duplicate
WHERE is_conflict AND event_time >= $start_instant AND event_time < $end_instant
GROUP BY ALL
ORDER BY ALL
