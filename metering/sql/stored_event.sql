-- The usage events of a snapshot, from the data files of the lake.
-- One row per stored usage event. A row counts when its segment is in the cut of its producer; the files may hold more,
-- because the lake goes on growing and is compacted, but that never changes what a cut means.
CREATE OR REPLACE VIEW stored_event AS
SELECT
    event.tenant_id,
    event.meter,
    event.quantity,
    event.event_time,
    event.recorded_at,
    event.producer_id,
    event.segment,
    event.row,
    event.idempotency_key,
    event.attributes,
    event.correction
FROM data_file AS event
JOIN cut ON cut.producer_id = event.producer_id AND event.segment <= cut.last_segment
