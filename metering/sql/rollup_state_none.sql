-- The same as rollup_state where there are no rollups: all states come from the events. No row.
CREATE OR REPLACE VIEW rollup_state AS
SELECT *
FROM added_state
LIMIT 0
