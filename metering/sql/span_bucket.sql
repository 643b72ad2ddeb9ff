-- How many buckets the service period of a span has, the partial ones at its ends included. One row per (span, part).
CREATE OR REPLACE TABLE span_bucket AS
WITH asked AS (
    SELECT DISTINCT
        span.span_id, span.timezone, span.service_start, span.service_end - INTERVAL 1 MICROSECOND AS last_instant,
        selector_part.part
    FROM span
    JOIN selector USING (selector_set)
    JOIN selector_part USING (selector_set, selector_id)
    WHERE selector.way = 'bucketed'
),
opened AS (
    SELECT asked.*, time_bucket.number AS first_number
    FROM asked
    ASOF JOIN time_bucket
        ON time_bucket.part = asked.part
        AND time_bucket.timezone = asked.timezone
        AND asked.service_start >= time_bucket.bucket_start
)
SELECT opened.span_id, opened.part, time_bucket.number - opened.first_number + 1 AS buckets
FROM opened
ASOF JOIN time_bucket
    ON time_bucket.part = opened.part
    AND time_bucket.timezone = opened.timezone
    AND opened.last_instant >= time_bucket.bucket_start
UNION ALL
SELECT
    asked.span_id,
    asked.part,
    (epoch_us(asked.last_instant) - epoch_us(asked.service_start)) // part_length.length_us + 1 AS buckets
FROM asked
JOIN part_length USING (part)
