-- DETAIL_EVENT: the usage events that a run looks at. One row per stored usage event whose time is in [$start, $end), and of earlier
-- ones those that the close before had not seen (seen: its cut). A view: nothing is read before it is asked for.
CREATE OR REPLACE VIEW detail_event AS
SELECT event.*, date_trunc('day', event.event_time) AS event_day
FROM stored_event AS event
LEFT JOIN seen ON seen.producer_id = event.producer_id AND event.segment <= seen.last_segment
JOIN detail_span ON event.event_time < detail_span.ends_at
    AND (event.event_time >= detail_span.starts_at OR seen.producer_id IS NULL)
