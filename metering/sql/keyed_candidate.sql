-- The same as keyed_event as far as duplicates go: only those whose identity may occur twice in the lake.
-- One row per stored usage event of the cut whose key another event may share; all others cannot be duplicates.
CREATE OR REPLACE VIEW keyed_event AS
SELECT event.*
FROM candidate AS event
JOIN cut ON cut.producer_id = event.producer_id AND event.segment <= cut.last_segment
