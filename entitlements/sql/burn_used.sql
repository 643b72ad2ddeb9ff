-- What was used in each segment: one row per (burn, seq) with any use. Units of the meter.
-- Use at the instant of a reset or of a new grant belongs to the segment that begins there.
CREATE OR REPLACE TABLE burn_used AS
WITH segment AS (
    SELECT burn_id, seq, start_at, end_at FROM burn_step WHERE kind = 'segment' AND start_at < end_at
)
SELECT segment.seq, segment.burn_id, sum(burn_usage.quantity)::DECIMAL(38, 9) AS quantity
FROM burn_usage
ASOF JOIN segment ON segment.burn_id = burn_usage.burn_id AND burn_usage.due_at >= segment.start_at
WHERE burn_usage.due_at < segment.end_at
GROUP BY ALL
ORDER BY ALL
