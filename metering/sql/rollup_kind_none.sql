-- The same as rollup_kind where there are no rollups. No row.
CREATE OR REPLACE TABLE rollup_kind (meter VARCHAR, attributes VARCHAR)
