-- The usage events of the data files that no rollup covers. One row per usage event of the snapshot.
CREATE OR REPLACE VIEW rollup_unrolled AS
SELECT event.*
FROM unrolled_file AS event
SEMI JOIN cut ON cut.producer_id = event.producer_id AND event.segment <= cut.last_segment
ANTI JOIN rollup_excluded AS excluded
    ON excluded.producer_id = event.producer_id AND excluded.segment = event.segment AND excluded.row = event.row
