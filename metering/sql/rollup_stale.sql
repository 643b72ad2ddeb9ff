-- The tenants asked for whose rollups do not fit the question: a span begins or ends inside a cell, or the events that do
-- not count are others now than when the rollup was made. One row per tenant; their events are read instead.
CREATE OR REPLACE TABLE rollup_stale AS
WITH now_excluded AS (
    SELECT excluded.*, covered.rollup
    FROM rollup_excluded AS excluded
    JOIN rollup_covered AS covered
        ON covered.producer_id = excluded.producer_id
        AND excluded.segment BETWEEN covered.first_segment AND covered.last_segment
),
differing AS (
    SELECT tenant_id
    FROM now_excluded
    ANTI JOIN rollup_left_out USING (rollup, producer_id, segment, row)
    UNION
    SELECT tenant_id
    FROM rollup_left_out
    ANTI JOIN now_excluded USING (rollup, producer_id, segment, row)
    UNION
    SELECT rollup_row.tenant_id
    FROM rollup_row
    JOIN span
        ON span.tenant_id = rollup_row.tenant_id
        AND (
            (rollup_row.cell_start < span.service_start AND rollup_row.cell_end > span.service_start)
            OR (rollup_row.cell_start < span.service_end AND rollup_row.cell_end > span.service_end)
        )
)
SELECT DISTINCT tenant_id
FROM differing
SEMI JOIN span USING (tenant_id)
