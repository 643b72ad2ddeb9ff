-- UNPRICED_METER compares what a subscribed tenant used with what its plans have a price for.
-- Catches a new meter that no plan sells, a filter that leaves out some attributes, and a name that no catalog knows.
-- Class AT_RISK: a price in a new plan version is booked by the next invoice. Acts: the owner of the price plans.
-- One row per (tenant, meter). `unknown_meter`: the catalog does not know it; `no_price`: no price of the plan selects it.
SELECT
    event.tenant_id,
    event.meter,
    CASE WHEN known_meter.meter IS NULL THEN 'unknown_meter' ELSE 'no_price' END AS reason,
    count(*) AS rows,
    sum(event.quantity)::DECIMAL(38, 9) AS quantity_difference,
    'attributes of one of them: ' || left(min(coalesce(event.attributes, '{}')), 200) AS detail
FROM usage_event AS event
SEMI JOIN span
    ON span.tenant_id = event.tenant_id
    AND event.event_time >= span.service_start
    AND event.event_time < span.service_end
ANTI JOIN priced
    ON priced.tenant_id = event.tenant_id
    AND priced.meter = event.meter
    AND priced.attributes = coalesce(event.attributes, '{}')
    AND event.event_time >= priced.service_start
    AND event.event_time < priced.service_end
LEFT JOIN known_meter ON known_meter.meter = event.meter
WHERE event.event_time >= $start_instant AND event.event_time < $end_instant
GROUP BY ALL
ORDER BY ALL
