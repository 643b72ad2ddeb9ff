-- The usage events of one line that count no more, because a later event voids or replaces them. One row per event.
-- Enters: the evidence and the selection of the rated close; $span_id, $price_id, $group_key. An event whose attributes no other
-- event has is known where the price takes all events of its meter.
SELECT
    event.event_time,
    event.recorded_at,
    event.quantity,
    event.attributes,
    event.idempotency_key,
    event.producer_id,
    event.segment,
    event.row,
    seen.producer_id IS NULL AS is_new,
    count(*) OVER () AS event_count
FROM stored_once AS event
SEMI JOIN corrected USING (producer_id, segment, row)
JOIN billing_span AS span
    ON span.tenant_id = event.tenant_id
    AND event.event_time >= span.service_start
    AND event.event_time < span.service_end
JOIN selector
    ON selector.selector_set = span.plan_key
    AND selector.meter = event.meter
    AND selector.selector_id = $price_id
LEFT JOIN selection
    ON selection.selector_set = span.plan_key
    AND selection.selector_id = selector.selector_id
    AND selection.attributes = coalesce(event.attributes, '{}')
LEFT JOIN seen ON seen.producer_id = event.producer_id AND event.segment <= seen.last_segment
WHERE span.span_id = $span_id
    AND (event.correction IS NULL OR json_extract_string(event.correction, '$.verb') <> 'void')
    AND (
        selection.group_key = $group_key
        OR (
            $group_key = ''
            AND selector.sibling IS NULL
            AND NOT EXISTS (
                FROM selector_filter AS filter
                WHERE filter.selector_set = span.plan_key AND filter.selector_id = $price_id
            )
        )
    )
ORDER BY is_new DESC, abs(event.quantity) DESC, event.event_time, event.producer_id, event.segment, event.row
LIMIT $sample
