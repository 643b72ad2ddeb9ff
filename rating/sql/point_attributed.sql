-- Whose the usage events of some UTC dates are: one row per (tenant, meter, reason), each event under one reason.
--   subscribed           a subscription of the tenant runs at that time
--   no_subscription      the tenant is known, and none runs
--   unknown_tenant       no account and no subscription names the tenant
--   late_usage_refused   told later than the plan takes it
-- Counted in the events themselves: duplicates, and what is voided or replaced, is not usage. `service_time` has the times of a
-- tenant's subscriptions put together, so that no event is met twice.
WITH event AS (
    SELECT tenant_id, meter, quantity, event_time, false AS is_late
    FROM usage_event
    WHERE event_time >= $start_instant AND event_time < $end_instant
    UNION ALL
    SELECT tenant_id, meter, quantity, event_time, true
    FROM stored_once
    SEMI JOIN late_event USING (producer_id, segment, row)
    ANTI JOIN corrected USING (producer_id, segment, row)
    WHERE event_time >= $start_instant AND event_time < $end_instant
)
SELECT
    event.tenant_id,
    event.meter,
    CASE
        WHEN event.is_late THEN 'late_usage_refused'
        WHEN service.tenant_id IS NOT NULL THEN 'subscribed'
        WHEN known.tenant_id IS NOT NULL THEN 'no_subscription'
        ELSE 'unknown_tenant'
    END AS reason,
    count(*) AS event_count,
    sum(event.quantity)::DECIMAL(38, 9) AS quantity
FROM event
LEFT JOIN service_time AS service
    ON service.tenant_id = event.tenant_id
    AND event.event_time >= service.service_start
    AND event.event_time < service.service_end
LEFT JOIN tenant_of_terms AS known ON known.tenant_id = event.tenant_id
GROUP BY ALL
ORDER BY ALL
