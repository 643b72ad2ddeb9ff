-- control: DEDUPE_MISS
-- version: 2
-- point: P2
-- compares: usage events that are alike to the microsecond, quantity and attributes included, with their keys
-- catches: retries with fresh keys, which are counted twice
-- class: OVERBILL
-- owner: ENG, FIN
-- money: E1
-- act: void the copies; make the key once, before the first attempt
-- cadence: daily
-- setting: window_minutes = 60 minutes between the first and the last time it was recorded
-- setting: share_max = 0.05 of a meter's events that may be copies: above that being alike is how it is used
-- needs: counted_event
WITH alike AS (
    -- Times on the second are made by clocks or files that know no better: many true events share them.
    SELECT tenant_id, meter, event_time, quantity, coalesce(counted_event.attributes, '{}') AS attributes, count(*) - 1 AS copies,
        min(producer_id || '#' || segment || '/' || row) AS first_event
    FROM counted_event
    WHERE event_time >= $start_instant
        AND event_time < $end_instant
        AND idempotency_key IS NOT NULL
        AND epoch_us(event_time) % 1000000 <> 0
    GROUP BY tenant_id, meter, event_time, quantity, coalesce(counted_event.attributes, '{}')
    HAVING count(*) > 1
        AND count(DISTINCT idempotency_key) = count(*)
        AND max(recorded_at) - min(recorded_at) <= to_minutes($window_minutes)
),
counted AS (
    SELECT tenant_id, meter, count(*) AS events
    FROM counted_event
    WHERE event_time >= $start_instant AND event_time < $end_instant
    GROUP BY tenant_id, meter
)
SELECT
    alike.tenant_id,
    alike.meter,
    'fresh_keys' AS reason,
    sum(alike.copies)::BIGINT AS rows,
    abs(sum(alike.copies * alike.quantity))::DECIMAL(38, 9) AS quantity_difference,
    min(alike.event_time) AS occurred_at,
    count(*) || ' usage event(s) were recorded ' || sum(alike.copies) || ' more time(s) under other keys' AS detail,
    min(alike.first_event, 20) AS evidence_sample
FROM alike
JOIN counted USING (tenant_id, meter)
GROUP BY alike.tenant_id, alike.meter
HAVING sum(alike.copies) <= $share_max * min(counted.events)
ORDER BY ALL
