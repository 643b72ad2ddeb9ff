-- The usage events of some data files that count. One row per usage event.
CREATE OR REPLACE VIEW rollup_event AS
SELECT event.*
FROM rollup_file AS event
ANTI JOIN rollup_excluded USING (producer_id, segment, row)
