-- States of one cell of time that all tenants share. One row per (tenant, meter, attributes as they were written).
-- A cell is half-open, [cell_start, cell_end): an event at its end belongs to the next one.
INSERT INTO rollup_new
SELECT
    tenant_id,
    meter,
    coalesce(attributes, '{}') AS attributes,
    $cell_start AS cell_start,
    $cell_end AS cell_end,
    count(*) AS event_count,
    sum(quantity) AS quantity_sum,
    max(quantity) AS quantity_max,
    min(quantity) AS quantity_min
FROM rollup_event
WHERE event_time >= $cell_start AND event_time < $cell_end
GROUP BY ALL
