-- The stored usage events without those that only say again what another one said. One row per distinct event.
CREATE OR REPLACE VIEW stored_once AS
SELECT event.*
FROM stored_event AS event
ANTI JOIN duplicate USING (producer_id, segment, row)
