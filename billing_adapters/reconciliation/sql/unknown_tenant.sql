-- UNKNOWN_TENANT compares the tenants in usage with those that an account lists or a subscription names.
-- Catches usage that was accepted and is billed to nobody. Class AT_RISK: add the tenant and a subscription from the day
-- of first use, and the next invoice books it. Acts: OPS. One row per (tenant, meter).
SELECT
    event.tenant_id,
    event.meter,
    'unknown_tenant' AS reason,
    count(*) AS rows,
    sum(event.quantity)::DECIMAL(38, 9) AS quantity_difference,
    'used from ' || strftime(min(event.event_time), '%Y-%m-%d') || ' to ' || strftime(max(event.event_time), '%Y-%m-%d')
        || '; no account lists this tenant' AS detail
FROM usage_event AS event
ANTI JOIN known_tenant USING (tenant_id)
WHERE event.event_time >= $start_instant AND event.event_time < $end_instant
GROUP BY ALL
ORDER BY ALL
