-- The meters of which a question needs the order of events. One row per meter; their events are read.
CREATE OR REPLACE TABLE rollup_ordered AS
SELECT DISTINCT meter
FROM selector
WHERE aggregation NOT IN ('count', 'sum', 'max', 'min', 'unique_count')
