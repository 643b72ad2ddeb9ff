-- control: UNKNOWN_TENANT
-- version: 2
-- point: P3
-- compares: the tenants in usage with those that an account lists or a subscription names
-- catches: usage that was accepted and is billed to nobody
-- class: AT_RISK
-- owner: OPS
-- money: E1
-- act: add the tenant and a subscription from the day of first use, and the next invoice books it
-- cadence: daily
-- setting: internal_tenants = [] tenants of tests and of our own, who pay nothing
-- needs: counted_event
-- needs: known_tenant
SELECT
    event.tenant_id,
    event.meter,
    'unknown_tenant' AS reason,
    count(*) AS rows,
    abs(sum(event.quantity))::DECIMAL(38, 9) AS quantity_difference,
    CASE WHEN sum(event.quantity) < 0 THEN 'DATA_QUALITY' ELSE 'AT_RISK' END AS class,
    min(event.event_time) AS occurred_at,
    min(event.producer_id || '#' || event.segment || '/' || event.row, 20) AS evidence_sample,
    'used from ' || strftime(min(event.event_time), '%Y-%m-%d') || ' to ' || strftime(max(event.event_time), '%Y-%m-%d')
        || '; no account lists this tenant' AS detail
FROM counted_event AS event
ANTI JOIN known_tenant USING (tenant_id)
WHERE event.event_time >= $start_instant
    AND event.event_time < $end_instant
    AND NOT list_contains($internal_tenants, event.tenant_id)
GROUP BY ALL
ORDER BY ALL
