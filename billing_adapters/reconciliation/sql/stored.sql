-- Equation 2, stored = rated + voided + unrated by reason. One row per (meter, bucket).
-- `stored` is counted in the data files; `voided` are events that a correction names, and corrections that only void;
-- `rated` are the usage events that some price of a subscription of the tenant selects at their time; the reasons why others
-- are not are in `unrated`.
SELECT meter, 'stored' AS bucket, count(*) AS rows, sum(quantity)::DECIMAL(38, 9) AS quantity
FROM stored_once
WHERE event_time >= $start_instant AND event_time < $end_instant
GROUP BY ALL
UNION ALL
SELECT meter, 'voided', count(*), sum(quantity)
FROM stored_once
ANTI JOIN counted_event USING (producer_id, segment, row)
ANTI JOIN late_usage USING (producer_id, segment, row)
WHERE event_time >= $start_instant AND event_time < $end_instant
GROUP BY ALL
UNION ALL
SELECT event.meter, 'rated', count(*), sum(event.quantity)
FROM counted_event AS event
SEMI JOIN priced
    ON priced.tenant_id = event.tenant_id
    AND priced.meter = event.meter
    AND priced.attributes = coalesce(event.attributes, '{}')
    AND event.event_time >= priced.service_start
    AND event.event_time < priced.service_end
WHERE event.event_time >= $start_instant AND event.event_time < $end_instant
GROUP BY ALL
UNION ALL
SELECT meter, reason, rows, quantity
FROM unrated
ORDER BY ALL
