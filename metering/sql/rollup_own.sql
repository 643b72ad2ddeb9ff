-- States of the tenants that have cells of their own. One row per (tenant, meter, attributes, cell).
INSERT INTO rollup_new
SELECT
    event.tenant_id,
    event.meter,
    coalesce(event.attributes, '{}') AS attributes,
    cell.cell_start,
    cell.cell_end,
    count(*) AS event_count,
    sum(event.quantity) AS quantity_sum,
    max(event.quantity) AS quantity_max,
    min(event.quantity) AS quantity_min
FROM rollup_event AS event
JOIN rollup_own_cell AS cell
    ON cell.tenant_id = event.tenant_id
    AND event.event_time >= cell.cell_start
    AND event.event_time < cell.cell_end
GROUP BY ALL
