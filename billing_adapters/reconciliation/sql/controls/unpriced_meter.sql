-- control: UNPRICED_METER
-- version: 2
-- point: P4
-- compares: what a subscribed tenant used with what its plans have a price for
-- catches: a new meter that no plan sells, a filter that leaves out some attributes, a name that no catalog knows
-- class: AT_RISK
-- owner: FIN, SALES
-- money: E1
-- act: a price in a new plan version is booked by the next invoice; use that is meant to be free gets a price of 0
-- cadence: daily
-- needs: counted_event
-- needs: service_span
-- needs: priced
-- needs: known_meter
SELECT
    event.tenant_id,
    event.meter,
    CASE WHEN known_meter.meter IS NULL THEN 'unknown_meter' ELSE 'no_price' END AS reason,
    count(*) AS rows,
    abs(sum(event.quantity))::DECIMAL(38, 9) AS quantity_difference,
    CASE WHEN sum(event.quantity) < 0 THEN 'DATA_QUALITY' ELSE 'AT_RISK' END AS class,
    min(event.event_time) AS occurred_at,
    min(event.producer_id || '#' || event.segment || '/' || event.row, 20) AS evidence_sample,
    'no price of its plans takes these units'
        || coalesce('; attributes of one of them: ' || left(min(nullif(event.attributes, '{}')), 200), '') AS detail
FROM counted_event AS event
SEMI JOIN service_span AS span
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
