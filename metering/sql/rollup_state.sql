-- The states that rollups give, per span. One row per (span, meter, attributes, cell); a cell lies in a span as a whole or
-- not at all, because the tenants of whom that does not hold are stale. Read where they lie: copying a million texts costs
-- more than adding up what belongs to them.
CREATE OR REPLACE VIEW rollup_state AS
SELECT
    span.span_id,
    rollup_row.meter,
    rollup_row.attributes,
    rollup_row.event_count,
    rollup_row.quantity_sum,
    rollup_row.quantity_max,
    rollup_row.quantity_min
FROM rollup_row
JOIN span
    ON span.tenant_id = rollup_row.tenant_id
    AND rollup_row.cell_start >= span.service_start
    AND rollup_row.cell_end <= span.service_end
ANTI JOIN rollup_ordered ON rollup_ordered.meter = rollup_row.meter
ANTI JOIN rollup_stale ON rollup_stale.tenant_id = rollup_row.tenant_id
