-- The pairs of a meter and attributes that rollups hold. One row per pair.
CREATE OR REPLACE TABLE rollup_kind AS
SELECT DISTINCT meter, attributes
FROM rollup_row
ANTI JOIN rollup_ordered USING (meter)
