-- LATE_USAGE_REFUSED compares when usage was recorded with how late a plan still bills it (`late_usage_days`).
-- Catches usage that arrived after that: it is stored, and not billed, as the plan says. Class AT_RISK: more days in a new
-- plan version bill it. Acts: FIN. One row per (tenant, meter).
SELECT
    event.tenant_id,
    event.meter,
    'recorded_too_late' AS reason,
    count(*) AS rows,
    sum(event.quantity)::DECIMAL(38, 9) AS quantity_difference,
    'recorded from ' || strftime(min(event.recorded_at), '%Y-%m-%d') || ' to ' || strftime(max(event.recorded_at), '%Y-%m-%d')
        AS detail
FROM stored_once AS event
SEMI JOIN late_event USING (producer_id, segment, row)
WHERE event.event_time >= $start_instant AND event.event_time < $end_instant
GROUP BY ALL
ORDER BY ALL
