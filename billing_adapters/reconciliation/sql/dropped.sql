-- DROPPED compares what producers refused for want of room with nothing: the events are gone, and only their count is left.
-- Catches a full disk or a journal at its limit where the application chose `drop_and_count`. Class LOST. Acts: ENG, OPS.
-- One row per producer that sealed a segment in the period. Trailers count all drops of a producer's life so far, so the
-- newest trailer speaks for it; tenants, meters and times of what was refused are not known.
SELECT
    NULL::VARCHAR AS tenant_id,
    NULL::VARCHAR AS meter,
    'no_room' AS reason,
    max(dropped)::BIGINT AS rows,
    NULL::DECIMAL(38, 9) AS quantity_difference,
    'producer ' || producer_id || ' refused them; its last segment here is #' || max(segment) AS detail
FROM segment_trailer
WHERE sealed_at >= $start_instant AND sealed_at < $end_instant
GROUP BY producer_id
HAVING max(dropped) > 0
ORDER BY ALL
