-- The dead letters of the snapshot whose date is in the period. One row per refused row; names that could not be read are ''.
-- Beyond the cut they are still in flight: the lake writes dead letters before the events of the same segment.
CREATE OR REPLACE TABLE dead_lettered AS
SELECT
    dead.producer_id,
    dead.segment,
    dead.row,
    coalesce(dead.tenant_id, '') AS tenant_id,
    coalesce(dead.meter, '') AS meter,
    coalesce(dead.quantity, 0)::DECIMAL(38, 9) AS quantity,
    dead.reason
FROM dead_letter_row AS dead
JOIN snapshot_cut AS cut ON cut.producer_id = dead.producer_id AND dead.segment <= cut.last_segment
WHERE dead.event_date >= $first_date AND dead.event_date < $end_date
