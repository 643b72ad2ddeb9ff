-- Usage events gathered by what can still tell them apart: the attributes as they were written.
-- One row per (span, meter, attributes). Parsing JSON waits until here, where a million events are a few distinct texts.
-- A span is half-open, [service_start, service_end): an event at its end belongs to the next one.
-- Every column is a state that merges: sums add, maxima are compared. The last three are for the meters that ask for order
-- or time; their rows come with usage_state_asked, because working them out costs more than all the others together.
CREATE OR REPLACE TABLE usage_state AS
SELECT
    span.span_id,
    event.meter,
    coalesce(event.attributes, '{}') AS attributes,
    count(*) AS event_count,
    sum(event.quantity) AS quantity_sum,
    max(event.quantity) AS quantity_max,
    min(event.quantity) AS quantity_min,
    NULL::STRUCT(
        event_time TIMESTAMPTZ,
        recorded_at TIMESTAMPTZ,
        producer_id VARCHAR,
        segment BIGINT,
        row INTEGER,
        quantity DECIMAL(38, 9)
    ) AS first_event,
    first_event AS last_event,
    NULL::HUGEINT AS level_time
FROM state_event AS event
JOIN span
    ON span.tenant_id = event.tenant_id
    AND event.event_time >= span.service_start
    AND event.event_time < span.service_end
ANTI JOIN meter_state ON meter_state.meter = event.meter
GROUP BY ALL
