-- The meters of which a question needs the order of events, or a level over time. One row per meter; their events are read.
CREATE OR REPLACE TABLE rollup_ordered AS
SELECT meter
FROM meter_state
