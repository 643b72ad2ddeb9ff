-- control: NO_SUBSCRIPTION
-- version: 2
-- point: P3
-- compares: the time of use with the subscriptions of a known tenant
-- catches: use before the start, after the end, or between two subscriptions; trials that were never converted
-- class: AT_RISK
-- owner: FIN, SALES
-- money: E1
-- act: a subscription that covers the time is booked by the next invoice; or stop the use
-- cadence: daily
-- needs: counted_event
-- needs: known_tenant
-- needs: service_span
SELECT
    event.tenant_id,
    event.meter,
    'no_subscription' AS reason,
    count(*) AS rows,
    abs(sum(event.quantity))::DECIMAL(38, 9) AS quantity_difference,
    CASE WHEN sum(event.quantity) < 0 THEN 'DATA_QUALITY' ELSE 'AT_RISK' END AS class,
    min(event.event_time) AS occurred_at,
    min(event.producer_id || '#' || event.segment || '/' || event.row, 20) AS evidence_sample,
    'used from ' || strftime(min(event.event_time), '%Y-%m-%d') || ' to ' || strftime(max(event.event_time), '%Y-%m-%d')
        || '; no subscription covers that' AS detail
FROM counted_event AS event
SEMI JOIN known_tenant USING (tenant_id)
ANTI JOIN service_span AS span
    ON span.tenant_id = event.tenant_id
    AND event.event_time >= span.service_start
    AND event.event_time < span.service_end
WHERE event.event_time >= $start_instant AND event.event_time < $end_instant
GROUP BY ALL
ORDER BY ALL
