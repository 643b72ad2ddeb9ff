-- Usage events gathered by what can still tell them apart: the attributes as they were written.
-- One row per (span, meter, attributes). Parsing JSON waits until here, where a million events are a few distinct texts.
-- A span is half-open, [service_start, service_end): an event at its end belongs to the next one.
-- `last` follows (event_time, recorded_at, producer_id, segment, row), so two events of one instant have one fixed order.
CREATE OR REPLACE TABLE usage_state AS
SELECT
    span.span_id,
    event.meter,
    coalesce(event.attributes, '{}') AS attributes,
    count(*) AS event_count,
    sum(event.quantity) AS quantity_sum,
    max(event.quantity) AS quantity_max,
    min(event.quantity) AS quantity_min,
    max({
        event_time: event.event_time,
        recorded_at: event.recorded_at,
        producer_id: event.producer_id,
        segment: event.segment,
        row: event.row,
        quantity: event.quantity
    }) FILTER (selector.meter IS NOT NULL) AS last_event
FROM state_event AS event
JOIN span
    ON span.tenant_id = event.tenant_id
    AND event.event_time >= span.service_start
    AND event.event_time < span.service_end
LEFT JOIN (SELECT DISTINCT meter FROM selector WHERE aggregation = 'last') AS selector ON selector.meter = event.meter
GROUP BY ALL
