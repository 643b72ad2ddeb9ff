-- What was used before a span, from `since` on, such as earlier in the time on a plan: [since, service_start), half-open. It
-- has its own selectors, so these events are counted, and counted once. One row per (span, meter, attributes).
INSERT INTO part_state BY NAME
WITH asked AS (
    SELECT DISTINCT span.span_id, selector.meter
    FROM selector_part
    JOIN selector USING (selector_set, selector_id)
    JOIN span USING (selector_set)
    WHERE selector_part.part = 'before'
)
SELECT
    'before' AS part,
    asked.span_id,
    asked.meter,
    coalesce(event.attributes, '{}') AS attributes,
    count(*) AS event_count,
    sum(event.quantity) AS quantity_sum,
    max(event.quantity) AS quantity_max,
    min(event.quantity) AS quantity_min
FROM usage_event AS event
JOIN span
    ON span.tenant_id = event.tenant_id AND event.event_time >= span.since AND event.event_time < span.service_start
JOIN asked ON asked.span_id = span.span_id AND asked.meter = event.meter
GROUP BY ALL
