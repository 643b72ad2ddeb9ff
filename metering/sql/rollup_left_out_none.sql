-- The events that were left out of the rollups in use. One row per event; an event is in one data file, so in one rollup.
CREATE OR REPLACE TABLE rollup_left_out (producer_id VARCHAR, segment BIGINT, row INTEGER, tenant_id VARCHAR)
