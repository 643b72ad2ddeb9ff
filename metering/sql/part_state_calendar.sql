-- The states of each hour, day, week or month of a span, for the meters of which a selector asks that.
-- Buckets are half-open and cut in the time zone of the span; the first and the last may be partial.
INSERT INTO part_state
WITH asked AS (
    SELECT DISTINCT span.span_id, span.timezone, selector.meter, selector_part.part
    FROM selector_part
    JOIN selector USING (selector_set, selector_id)
    JOIN span USING (selector_set)
    WHERE selector_part.part IN (SELECT part FROM time_bucket)
),
placed AS (
    SELECT
        asked.part,
        asked.timezone,
        asked.span_id,
        event.meter,
        event.attributes,
        event.event_time,
        event.quantity,
        {
            event_time: event.event_time,
            recorded_at: event.recorded_at,
            producer_id: event.producer_id,
            segment: event.segment,
            row: event.row,
            quantity: event.quantity
        } AS ordered
    FROM usage_event AS event
    JOIN span
        ON span.tenant_id = event.tenant_id
        AND event.event_time >= span.service_start
        AND event.event_time < span.service_end
    JOIN asked ON asked.span_id = span.span_id AND asked.meter = event.meter
)
SELECT
    placed.part,
    time_bucket.bucket_start AS part_start,
    placed.span_id,
    placed.meter,
    coalesce(placed.attributes, '{}') AS attributes,
    count(*) AS event_count,
    sum(placed.quantity) AS quantity_sum,
    max(placed.quantity) AS quantity_max,
    min(placed.quantity) AS quantity_min,
    min(placed.ordered) AS first_event,
    max(placed.ordered) AS last_event,
    NULL::HUGEINT AS level_time
FROM placed
ASOF JOIN time_bucket
    ON time_bucket.part = placed.part
    AND time_bucket.timezone = placed.timezone
    AND placed.event_time >= time_bucket.bucket_start
GROUP BY ALL
