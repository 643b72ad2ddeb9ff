-- The same figures, counted in the usage events of the data files that rollups cover. One row per (tenant, meter). What a rollup
-- left out, because it did not count when it was made, is left out here too.
SELECT event.tenant_id, event.meter, count(*) AS rows, sum(event.quantity)::DECIMAL(38, 9) AS quantity
FROM rollup_file AS event
ANTI JOIN rollup_out USING (producer_id, segment, row)
WHERE event.event_time >= $start_instant AND event.event_time < $end_instant
GROUP BY ALL
ORDER BY ALL
