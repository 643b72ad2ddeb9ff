-- The usage events that count: stored and not a duplicate. One row per usage event.
CREATE OR REPLACE VIEW usage_event AS
SELECT event.*
FROM stored_event AS event
ANTI JOIN duplicate USING (producer_id, segment, row)
