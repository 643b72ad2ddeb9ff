-- USAGE_DETAIL, one part of it: what became of every usage event. One row per event and price that counts it, and one per event that no
-- price counts. An event that counts is billed, or included where the whole use of its price in the period is worth nothing.
-- Enters: the evidence and the selection of the rated close; detail_price; detail_line (the lines of the run); the part's bounds.
WITH judged AS (
    SELECT
        event.*,
        CASE
            WHEN duplicate.producer_id IS NOT NULL THEN 'duplicate'
            WHEN corrected.producer_id IS NOT NULL THEN 'voided'
            WHEN late_event.producer_id IS NOT NULL THEN 'late'
        END AS left_out,
        CASE
            WHEN duplicate.is_conflict THEN 'other_payload'
            WHEN duplicate.producer_id IS NOT NULL THEN 'same_payload'
            WHEN corrected.producer_id IS NOT NULL AND event.correction IS NOT NULL THEN 'correction'
        END AS left_out_reason
    FROM detail_event AS event
    LEFT JOIN duplicate USING (producer_id, segment, row)
    LEFT JOIN corrected USING (producer_id, segment, row)
    LEFT JOIN late_event USING (producer_id, segment, row)
    WHERE event.tenant_id >= $first_tenant AND event.tenant_id <= $last_tenant
        AND (event.tenant_id <> $first_tenant OR event.event_day >= $first_day)
        AND (event.tenant_id <> $last_tenant OR event.event_day <= $last_day)
),
priced AS (
    SELECT
        judged.producer_id,
        judged.segment,
        judged.row,
        span.span_id,
        span.account_id,
        span.subscription_id,
        span.period_start,
        span.service_start,
        price.price_id,
        price.group_key
    FROM judged
    JOIN billing_span AS span
        ON span.tenant_id = judged.tenant_id
        AND judged.event_time >= span.service_start
        AND judged.event_time < span.service_end
    JOIN detail_price AS price
        ON price.selector_set = span.plan_key
        AND price.meter = judged.meter
        AND price.attributes = coalesce(judged.attributes, '{}')
    WHERE judged.left_out IS NULL
),
served AS (
    SELECT DISTINCT judged.producer_id, judged.segment, judged.row
    FROM judged
    JOIN billing_span AS span
        ON span.tenant_id = judged.tenant_id
        AND judged.event_time >= span.service_start
        AND judged.event_time < span.service_end
)
SELECT
    judged.producer_id,
    judged.segment,
    judged.row,
    judged.idempotency_key,
    judged.tenant_id,
    judged.meter,
    judged.attributes,
    judged.quantity,
    judged.event_time,
    judged.recorded_at,
    CASE
        WHEN judged.left_out IS NOT NULL THEN judged.left_out
        WHEN priced.span_id IS NULL THEN 'unpriced'
        WHEN worth.exact_amount = 0 THEN 'included'
        ELSE 'billed'
    END AS disposition,
    CASE
        WHEN judged.left_out IS NOT NULL THEN judged.left_out_reason
        WHEN priced.span_id IS NULL AND detail_tenant.tenant_id IS NULL THEN 'unknown_tenant'
        WHEN priced.span_id IS NULL AND served.producer_id IS NULL THEN 'no_subscription'
        WHEN priced.span_id IS NULL THEN 'unpriced_meter'
        WHEN worth.price_id IS NULL THEN 'not_due'
    END AS reason,
    priced.account_id,
    priced.subscription_id,
    priced.price_id,
    priced.period_start AS billing_period_start,
    detail_line.line_id
FROM judged
LEFT JOIN priced USING (producer_id, segment, row)
LEFT JOIN served USING (producer_id, segment, row)
LEFT JOIN detail_tenant USING (tenant_id)
LEFT JOIN worth
    ON worth.span_id = priced.span_id AND worth.price_id = priced.price_id AND worth.group_key = priced.group_key
LEFT JOIN detail_line
    ON detail_line.subscription_id = priced.subscription_id
    AND detail_line.period_start = priced.period_start
    AND detail_line.service_start = priced.service_start
    AND detail_line.price_id = priced.price_id
    AND detail_line.group_key = priced.group_key
ORDER BY judged.tenant_id, judged.event_time, judged.producer_id, judged.segment, judged.row, priced.price_id, priced.subscription_id
