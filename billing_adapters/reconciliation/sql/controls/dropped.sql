-- control: DROPPED
-- version: 1
-- point: P1
-- compares: what producers refused for want of room, as their trailers count it, with nothing: the events are gone,
--     and only their number is left
-- catches: a full disk, or a journal at its limit where the application chose drop_and_count
-- class: LOST
-- owner: ENG, OPS
-- money: E4
-- act: give the journal more room; the events cannot be had again
-- cadence: delivery
-- needs: segment_trailer
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
