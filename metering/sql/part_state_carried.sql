-- What history left to a span: the states of all use of the tenant before its start, for meters that carry it.
-- A level is a fact of use, not of contract: it is also carried from before the subscription began. These events are not
-- of this span, so their count is 0 here; the level they left lasts for the whole span.
INSERT INTO part_state
WITH asked AS (
    SELECT DISTINCT span.span_id, selector.meter
    FROM selector_part
    JOIN selector USING (selector_set, selector_id)
    JOIN span USING (selector_set)
    WHERE selector_part.part = 'carried'
),
placed AS (
    SELECT
        asked.span_id,
        epoch_us(span.service_end) - epoch_us(span.service_start) AS service_us,
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
    JOIN span ON span.tenant_id = event.tenant_id AND event.event_time < span.service_start
    JOIN asked ON asked.span_id = span.span_id AND asked.meter = event.meter
)
SELECT
    'carried' AS part,
    NULL AS part_start,
    placed.span_id,
    placed.meter,
    coalesce(placed.attributes, '{}') AS attributes,
    0 AS event_count,
    sum(placed.quantity) AS quantity_sum,
    max(placed.quantity) AS quantity_max,
    min(placed.quantity) AS quantity_min,
    min(placed.ordered) AS first_event,
    max(placed.ordered) AS last_event,
    CASE WHEN asked.by_time THEN (sum(placed.quantity) * 1000000000)::HUGEINT * any_value(placed.service_us) END AS level_time
FROM placed
LEFT JOIN meter_state AS asked ON asked.meter = placed.meter
GROUP BY placed.span_id, placed.meter, placed.attributes, asked.by_time
