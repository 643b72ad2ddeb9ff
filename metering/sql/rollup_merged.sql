-- Rollups added up into one. One row per (tenant, meter, attributes, cell).
INSERT INTO rollup_new
SELECT
    tenant_id,
    meter,
    attributes,
    cell_start,
    cell_end,
    sum(event_count)::BIGINT AS event_count,
    sum(quantity_sum) AS quantity_sum,
    max(quantity_max) AS quantity_max,
    min(quantity_min) AS quantity_min
FROM rollup_part
GROUP BY ALL
