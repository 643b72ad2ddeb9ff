-- The usage events that count: stored, not a duplicate, not voided or replaced, not refused as late. One row per event.
CREATE OR REPLACE VIEW counted_event AS
SELECT event.*
FROM stored_once AS event
ANTI JOIN corrected USING (producer_id, segment, row)
ANTI JOIN late_usage USING (producer_id, segment, row)
