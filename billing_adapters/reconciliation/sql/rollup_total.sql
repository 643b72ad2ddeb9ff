-- What rollups hold of some months. One row per (tenant, meter). No cell of a rollup reaches over the end of a month.
SELECT tenant_id, meter, sum(event_count)::BIGINT AS rows, sum(quantity_sum)::DECIMAL(38, 9) AS quantity
FROM rollup_row
WHERE cell_start >= $start_instant AND cell_end <= $end_instant
GROUP BY ALL
ORDER BY ALL
