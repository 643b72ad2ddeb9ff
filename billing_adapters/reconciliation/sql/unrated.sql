-- Stored usage of the period that nobody pays for, each event under one reason. One row per (meter, reason).
-- These are the buckets of the second equation; the controls of the same names find who used it, and what it is worth.
CREATE OR REPLACE TABLE unrated AS
WITH event AS (
    SELECT
        tenant_id,
        meter,
        quantity,
        event_time,
        coalesce(attributes, '{}') AS attributes
    FROM counted_event
    WHERE event_time >= $start_instant AND event_time < $end_instant
),
unselected AS (
    SELECT event.*
    FROM event
    ANTI JOIN priced
        ON priced.tenant_id = event.tenant_id
        AND priced.meter = event.meter
        AND priced.attributes = event.attributes
        AND event.event_time >= priced.service_start
        AND event.event_time < priced.service_end
),
reasoned AS (
    SELECT
        unselected.meter,
        unselected.quantity,
        CASE
            WHEN known_tenant.tenant_id IS NULL THEN 'unknown_tenant'
            WHEN EXISTS (
                SELECT 1
                FROM service_span AS span
                WHERE span.tenant_id = unselected.tenant_id
                    AND unselected.event_time >= span.service_start
                    AND unselected.event_time < span.service_end
            ) THEN 'unpriced_meter'
            ELSE 'no_subscription'
        END AS reason
    FROM unselected
    LEFT JOIN known_tenant USING (tenant_id)
    UNION ALL
    SELECT meter, quantity, 'late_usage_refused'
    FROM stored_once
    SEMI JOIN late_usage USING (producer_id, segment, row)
    WHERE event_time >= $start_instant AND event_time < $end_instant
)
SELECT meter, reason, count(*) AS rows, sum(quantity)::DECIMAL(38, 9) AS quantity
FROM reasoned
GROUP BY ALL
