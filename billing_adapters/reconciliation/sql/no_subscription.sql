-- NO_SUBSCRIPTION compares the time of use with the subscriptions of a known tenant.
-- Catches use before the start, after the end, or between two subscriptions. Class AT_RISK: a subscription that covers
-- the time is booked by the next invoice. Acts: FIN, SALES. One row per (tenant, meter).
SELECT
    event.tenant_id,
    event.meter,
    'no_subscription' AS reason,
    count(*) AS rows,
    sum(event.quantity)::DECIMAL(38, 9) AS quantity_difference,
    'used from ' || strftime(min(event.event_time), '%Y-%m-%d') || ' to ' || strftime(max(event.event_time), '%Y-%m-%d')
        || '; no subscription covers that' AS detail
FROM usage_event AS event
SEMI JOIN known_tenant USING (tenant_id)
ANTI JOIN span
    ON span.tenant_id = event.tenant_id
    AND event.event_time >= span.service_start
    AND event.event_time < span.service_end
WHERE event.event_time >= $start_instant AND event.event_time < $end_instant
GROUP BY ALL
ORDER BY ALL
