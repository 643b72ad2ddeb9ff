-- control: DEDUPE_EXCESS
-- version: 1
-- point: P2
-- compares: suppressed duplicates with the usage event that won: the same key with other quantities, times or attributes
-- catches: idempotency keys that are used again (a request path, a time in seconds) and so swallow real usage
-- class: AT_RISK
-- owner: ENG
-- money: E1
-- act: give every usage event a key of its own; record again what was swallowed, under new keys
-- cadence: delivery
-- needs: duplicate
-- needs: stored_event
SELECT
    lost.tenant_id,
    lost.meter,
    'key_used_again' AS reason,
    count(*) AS rows,
    sum(lost.quantity)::DECIMAL(38, 9) AS quantity_difference,
    -- Payloads that are suppressed may be mistakes that were corrected: perhaps nothing is missing.
    0::DECIMAL(38, 21) AS amount_low,
    min(lost.event_time) AS occurred_at,
    count(DISTINCT lost.idempotency_key) || ' key(s) of ' || count(DISTINCT lost.producer_id) || ' producer(s), first '
        || min(lost.idempotency_key) AS detail,
    min(lost.producer_id || '#' || lost.segment || '/' || lost.row, 20) AS evidence_sample
FROM (
    -- The same payload said three times is one that was swallowed, not two.
    SELECT event.tenant_id, event.meter, event.quantity, event.event_time, event.idempotency_key, event.producer_id,
        event.segment, event.row
    FROM duplicate
    JOIN stored_event AS event USING (producer_id, segment, row)
    WHERE duplicate.is_conflict AND event.event_time >= $start_instant AND event.event_time < $end_instant
    QUALIFY row_number() OVER (
        PARTITION BY event.tenant_id, event.meter, event.idempotency_key, event.quantity, event.event_time, event.attributes
        ORDER BY event.producer_id, event.segment, event.row
    ) = 1
) AS lost
GROUP BY lost.tenant_id, lost.meter
ORDER BY ALL
