-- control: LATE_USAGE_REFUSED
-- version: 2
-- point: P5
-- compares: when usage was recorded with how late a plan still bills it (late_usage_days)
-- catches: usage that arrived after that: it is stored, and not billed, as the plan says
-- class: AT_RISK
-- owner: FIN
-- money: E1
-- act: more days in a new plan version bill it
-- cadence: daily
-- needs: stored_once
-- needs: late_usage
SELECT
    event.tenant_id,
    event.meter,
    'recorded_too_late' AS reason,
    count(*) AS rows,
    abs(sum(event.quantity))::DECIMAL(38, 9) AS quantity_difference,
    CASE WHEN sum(event.quantity) < 0 THEN 'OVERBILL' ELSE 'AT_RISK' END AS class,
    min(event.event_time) AS occurred_at,
    min(event.producer_id || '#' || event.segment || '/' || event.row, 20) AS evidence_sample,
    'recorded from ' || strftime(min(event.recorded_at), '%Y-%m-%d') || ' to ' || strftime(max(event.recorded_at), '%Y-%m-%d')
        AS detail
FROM stored_once AS event
SEMI JOIN late_usage USING (producer_id, segment, row)
WHERE event.event_time >= $start_instant AND event.event_time < $end_instant
GROUP BY ALL
ORDER BY ALL
