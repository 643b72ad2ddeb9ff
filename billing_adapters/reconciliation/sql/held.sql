-- What the lake holds of the period, counted in its rows: one row per (producer, segment, tenant, meter).
-- `rows` counts every row; `positions` counts each (producer, segment, row) once, for a row that is stored twice must not
-- hide one that is lost. Only segments whose rows do not add up as 0, 1, 2 ... are looked at row by row.
CREATE OR REPLACE TABLE held AS
WITH every_row AS (
    SELECT producer_id, segment, row FROM stored_event
    UNION ALL
    SELECT dead.producer_id, dead.segment, dead.row
    FROM dead_letter_row AS dead
    JOIN snapshot_cut AS cut ON cut.producer_id = dead.producer_id AND dead.segment <= cut.last_segment
),
uneven_segment AS (
    -- Rows are numbered from 0 without gaps: n rows, their numbers and the squares of these have known sums.
    SELECT producer_id, segment
    FROM every_row
    GROUP BY ALL
    HAVING 2 * sum(row) <> count(*) * (count(*) - 1)
        OR 6 * sum(row::HUGEINT * row) <> (count(*)::HUGEINT - 1) * count(*) * (2 * count(*) - 1)
),
period_row AS (
    SELECT producer_id, segment, row, tenant_id, meter, quantity
    FROM stored_event
    WHERE event_time >= $start_instant AND event_time < $end_instant
    UNION ALL
    SELECT producer_id, segment, row, tenant_id, meter, quantity FROM dead_lettered
),
repeated AS (
    SELECT producer_id, segment, min(tenant_id) AS tenant_id, min(meter) AS meter, count(*) - 1 AS rows,
        sum(quantity) - min(quantity) AS quantity
    FROM period_row
    SEMI JOIN uneven_segment USING (producer_id, segment)
    GROUP BY producer_id, segment, row
    HAVING count(*) > 1
),
surplus AS (
    SELECT producer_id, segment, tenant_id, meter, sum(rows) AS rows, sum(quantity) AS quantity
    FROM repeated
    GROUP BY ALL
),
counted AS (
    SELECT producer_id, segment, tenant_id, meter, count(*) AS rows, sum(quantity) AS quantity
    FROM period_row
    GROUP BY ALL
)
SELECT
    counted.producer_id,
    counted.segment,
    counted.tenant_id,
    counted.meter,
    counted.rows,
    counted.quantity,
    (counted.rows - coalesce(surplus.rows, 0))::BIGINT AS positions,
    (counted.quantity - coalesce(surplus.quantity, 0))::DECIMAL(38, 9) AS positions_quantity
FROM counted
LEFT JOIN surplus USING (producer_id, segment, tenant_id, meter)
