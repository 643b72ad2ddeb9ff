-- The states of the meters whose questions need the order of events, or a level over time. One row per (span, meter,
-- attributes). Working these out costs more than all the others together, so only such meters have them.
--   first_event, last_event   follow (event_time, recorded_at, producer_id, segment, row), so two events of one instant
--                             have one fixed order
--   level_time                what the quantity, as a change of a level, adds until the span's end: billionths of a unit
--                             times microseconds, whole numbers that raise where they do not fit
INSERT INTO ordered_state
SELECT
    span.span_id,
    event.meter,
    coalesce(event.attributes, '{}') AS attributes,
    count(*) AS event_count,
    sum(event.quantity) AS quantity_sum,
    max(event.quantity) AS quantity_max,
    min(event.quantity) AS quantity_min,
    min({
        event_time: event.event_time,
        recorded_at: event.recorded_at,
        producer_id: event.producer_id,
        segment: event.segment,
        row: event.row,
        quantity: event.quantity
    }) FILTER (asked.by_order) AS first_event,
    max({
        event_time: event.event_time,
        recorded_at: event.recorded_at,
        producer_id: event.producer_id,
        segment: event.segment,
        row: event.row,
        quantity: event.quantity
    }) FILTER (asked.by_order) AS last_event,
    sum(
        CASE
            WHEN asked.by_time
                THEN (event.quantity * 1000000000)::HUGEINT
                    * (epoch_us(span.service_end) - epoch_us(event.event_time))
        END
    )::HUGEINT AS level_time
FROM usage_event AS event
JOIN meter_state AS asked ON asked.meter = event.meter
JOIN span
    ON span.tenant_id = event.tenant_id
    AND event.event_time >= span.service_start
    AND event.event_time < span.service_end
GROUP BY ALL
