-- The usage events that were recorded too late for every plan their tenant was on at their time. One row per event.
-- The limit is open: what was recorded at that very instant is late. A correction is never late, nor what it puts in place.
INSERT INTO late_event
SELECT event.producer_id, event.segment, event.row, event.tenant_id
FROM stored_once AS event
ANTI JOIN corrected USING (producer_id, segment, row)
JOIN late_limit
    ON late_limit.tenant_id = event.tenant_id
    AND event.event_time >= late_limit.service_start
    AND event.event_time < late_limit.service_end
WHERE event.correction IS NULL
GROUP BY event.producer_id, event.segment, event.row, event.tenant_id
HAVING bool_and(late_limit.recorded_before IS NOT NULL AND event.recorded_at >= late_limit.recorded_before)
