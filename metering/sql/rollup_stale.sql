-- The tenants asked for whose rollups do not fit the question: a span begins or ends inside a cell, or the events that do
-- not count are others now than those that were left out of them. One row per tenant; their events are read instead.
-- `rollup_covered` says which segments the data files of the rollups hold; an event is in one file, so only the rollup of
-- that file can have left it out. `rollup_shared_cell` holds all their cells, unless they are many ($has_own_cells).
CREATE OR REPLACE TABLE rollup_stale AS
WITH differing AS (
    SELECT excluded.tenant_id
    FROM rollup_excluded AS excluded
    JOIN rollup_covered AS covered
        ON covered.producer_id = excluded.producer_id
        AND excluded.segment BETWEEN covered.first_segment AND covered.last_segment
    ANTI JOIN rollup_left_out AS left_out
        ON left_out.producer_id = excluded.producer_id
        AND left_out.segment = excluded.segment
        AND left_out.row = excluded.row
    UNION
    SELECT tenant_id
    FROM rollup_left_out
    ANTI JOIN rollup_excluded USING (producer_id, segment, row)
),
cut_span AS (
    SELECT *
    FROM span
    WHERE $has_own_cells
        OR EXISTS (
            SELECT 1
            FROM rollup_shared_cell AS cell
            WHERE (cell.cell_start < span.service_start AND cell.cell_end > span.service_start)
                OR (cell.cell_start < span.service_end AND cell.cell_end > span.service_end)
        )
),
cut AS (
    SELECT rollup_row.tenant_id
    FROM rollup_row
    JOIN cut_span
        ON cut_span.tenant_id = rollup_row.tenant_id
        AND (
            (rollup_row.cell_start < cut_span.service_start AND rollup_row.cell_end > cut_span.service_start)
            OR (rollup_row.cell_start < cut_span.service_end AND rollup_row.cell_end > cut_span.service_end)
        )
)
SELECT DISTINCT tenant_id
FROM (SELECT tenant_id FROM differing UNION ALL SELECT tenant_id FROM cut) AS stale
SEMI JOIN span USING (tenant_id)
