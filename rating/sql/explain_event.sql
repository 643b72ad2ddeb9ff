-- The usage events behind one line. One row per event, those first that the books had not seen at the close before.
-- Enters: the evidence and the selection of the rated close; $span_id, $price_id, $group_key; seen (the cut before).
-- Within those the latest come first if $latest_first, else those of the largest quantity.
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
    count(*) OVER () AS event_count,
    count_if(seen.producer_id IS NULL) OVER () AS new_event_count
FROM usage_event AS event
JOIN billing_span AS span
    ON span.tenant_id = event.tenant_id
    AND event.event_time >= span.service_start
    AND event.event_time < span.service_end
JOIN selector
    ON selector.selector_set = span.plan_key
    AND selector.meter = event.meter
    AND split_part(selector.selector_id, chr(29), 1) = $price_id
JOIN selection
    ON selection.selector_set = span.plan_key
    AND selection.selector_id = selector.selector_id
    AND selection.attributes = coalesce(event.attributes, '{}')
LEFT JOIN seen ON seen.producer_id = event.producer_id AND event.segment <= seen.last_segment
WHERE span.span_id = $span_id AND selection.group_key = $group_key
ORDER BY
    is_new DESC,
    CASE WHEN $latest_first THEN event.event_time END DESC,
    abs(event.quantity) DESC,
    event.event_time,
    event.producer_id,
    event.segment,
    event.row
LIMIT $sample
