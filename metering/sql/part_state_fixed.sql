-- The states of each stretch of fixed length (5m, 1h) of a span, for the meters of which a selector asks that.
-- Counted in elapsed time from the span's start, so that a day of a clock change has more or fewer of them.
INSERT INTO part_state
WITH asked AS (
    SELECT DISTINCT span.span_id, selector.meter, part_length.part, part_length.length_us
    FROM part_length
    JOIN selector_part USING (part)
    JOIN selector USING (selector_set, selector_id)
    JOIN span USING (selector_set)
),
placed AS (
    SELECT
        asked.part,
        (epoch_us(event.event_time) - epoch_us(span.service_start)) // asked.length_us AS number,
        make_timestamptz(epoch_us(span.service_start) + number * asked.length_us) AS part_start,
        asked.span_id,
        event.meter,
        event.attributes,
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
    placed.part_start,
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
GROUP BY ALL
