-- Usage events gathered by what can still tell them apart: the attributes as they were written.
-- One row per (span, meter, attributes). Parsing JSON waits until here, where a million events are a few distinct texts.
-- A span is half-open, [service_start, service_end): an event at its end belongs to the next one.
INSERT INTO added_state
SELECT
    span.span_id,
    event.meter,
    coalesce(event.attributes, '{}') AS attributes,
    count(*) AS event_count,
    sum(event.quantity) AS quantity_sum,
    max(event.quantity) AS quantity_max,
    min(event.quantity) AS quantity_min
FROM state_event AS event
JOIN span
    ON span.tenant_id = event.tenant_id
    AND event.event_time >= span.service_start
    AND event.event_time < span.service_end
ANTI JOIN meter_state ON meter_state.meter = event.meter
GROUP BY ALL
