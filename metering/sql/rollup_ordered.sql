-- The meters of which a question needs more than what adds up: the order of events, or their times. One row per meter.
CREATE OR REPLACE TABLE rollup_ordered AS
SELECT meter
FROM selector
WHERE aggregation NOT IN ('average', 'count', 'sum', 'max', 'min', 'unique_count')
UNION
SELECT meter
FROM meter_state
