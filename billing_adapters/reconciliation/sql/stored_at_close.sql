-- What the lake holds now of the cut of a close: one row per (tenant, meter) of usage events of the period, by UTC dates. The engine holds
-- the evidence of the close's snapshot, and has refused nothing as late. Duplicates, and what was voided or replaced in the cut, are out.
SELECT tenant_id, meter, count(*) AS rows, sum(quantity)::DECIMAL(38, 9) AS quantity
FROM usage_event
WHERE event_time >= $start_instant AND event_time < $end_instant
GROUP BY ALL
ORDER BY ALL
