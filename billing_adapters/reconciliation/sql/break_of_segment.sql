-- Promised against held, one row per (producer, segment, tenant, meter) that differs. Rows that are in flight are not due.
--   missing_rows, missing_quantity   promised, and no position of the lake holds them
--   surplus_rows, surplus_quantity   held and never promised, or held twice; a quantity that is another one (rows 0)
CREATE OR REPLACE TABLE break_of_segment AS
WITH compared AS (
    SELECT
        producer_id,
        segment,
        tenant_id,
        meter,
        coalesce(promised.rows, 0) - coalesce(held.positions, 0) AS rows_short,
        coalesce(promised.quantity, 0) - coalesce(held.positions_quantity, 0) AS quantity_short,
        coalesce(held.rows, 0) - coalesce(held.positions, 0) AS rows_repeated,
        coalesce(held.quantity, 0) - coalesce(held.positions_quantity, 0) AS quantity_repeated
    FROM (SELECT * FROM promised WHERE NOT is_in_flight) AS promised
    FULL OUTER JOIN held USING (producer_id, segment, tenant_id, meter)
)
SELECT
    producer_id,
    segment,
    tenant_id,
    meter,
    greatest(rows_short, 0)::BIGINT AS missing_rows,
    (CASE WHEN rows_short > 0 THEN quantity_short ELSE 0 END)::DECIMAL(38, 9) AS missing_quantity,
    (greatest(-rows_short, 0) + rows_repeated)::BIGINT AS surplus_rows,
    ((CASE WHEN rows_short > 0 THEN 0 ELSE -quantity_short END) + quantity_repeated)::DECIMAL(38, 9) AS surplus_quantity
FROM compared
WHERE rows_short <> 0 OR quantity_short <> 0 OR rows_repeated <> 0
