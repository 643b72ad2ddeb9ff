-- Usage events gathered by what can still tell them apart: the attributes as they were written.
-- One row per (span, meter, attributes). Parsing JSON waits until here, where a million events are a few distinct texts.
-- A span is half-open, [service_start, service_end): an event at its end belongs to the next one.
-- Every column is a state that merges: sums add, maxima are compared. The last two kinds are for the meters that ask:
--   first_event, last_event   follow (event_time, recorded_at, producer_id, segment, row), so two events of one instant
--                             have one fixed order
--   level_time                what the quantity, as a change of a level, adds until the span's end: billionths of a unit
--                             times microseconds, whole numbers that raise where they do not fit
CREATE OR REPLACE TABLE usage_state AS
SELECT
    span.span_id,
    event.meter,
    coalesce(event.attributes, '{}') AS attributes,
    count(*) AS event_count,
    sum(event.quantity) AS quantity_sum,
    max(event.quantity) AS quantity_max,
    min(event.quantity) AS quantity_min,
    min(
        CASE
            WHEN asked.by_order
                THEN {
                    event_time: event.event_time,
                    recorded_at: event.recorded_at,
                    producer_id: event.producer_id,
                    segment: event.segment,
                    row: event.row,
                    quantity: event.quantity
                }
        END
    ) AS first_event,
    max(
        CASE
            WHEN asked.by_order
                THEN {
                    event_time: event.event_time,
                    recorded_at: event.recorded_at,
                    producer_id: event.producer_id,
                    segment: event.segment,
                    row: event.row,
                    quantity: event.quantity
                }
        END
    ) AS last_event,
    sum(
        CASE
            WHEN asked.by_time
                THEN (event.quantity * 1000000000)::HUGEINT
                    * (epoch_us(span.service_end) - epoch_us(event.event_time))
        END
    )::HUGEINT AS level_time
FROM state_event AS event
JOIN span
    ON span.tenant_id = event.tenant_id
    AND event.event_time >= span.service_start
    AND event.event_time < span.service_end
LEFT JOIN meter_state AS asked ON asked.meter = event.meter
GROUP BY ALL
