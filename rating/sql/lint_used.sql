-- What was used under each plan, priced or not. One row per (span, meter, attributes as they were written).
CREATE OR REPLACE TABLE lint_used AS
SELECT
    span.span_id,
    span.plan_key,
    span.tenant_id,
    event.meter,
    coalesce(event.attributes, '{}') AS attributes,
    count(*) AS event_count,
    sum(event.quantity) AS quantity
FROM usage_event AS event
JOIN billing_span AS span
    ON span.tenant_id = event.tenant_id
    AND event.event_time >= span.service_start
    AND event.event_time < span.service_end
GROUP BY ALL
