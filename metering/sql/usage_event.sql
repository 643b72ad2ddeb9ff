-- The usage events that count: stored, not a duplicate, and not voided or replaced. One row per usage event.
CREATE OR REPLACE VIEW usage_event AS
SELECT event.*
FROM stored_once AS event
ANTI JOIN corrected USING (producer_id, segment, row)
