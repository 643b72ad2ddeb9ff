-- The dead letters of a run as rows of USAGE_DETAIL: of days in the run's span, within the cut of its last close. One row per refused row.
SELECT
    dead.producer_id,
    dead.segment,
    dead.row,
    NULL::VARCHAR AS idempotency_key,
    dead.tenant_id,
    dead.meter,
    NULL::VARCHAR AS attributes,
    dead.quantity,
    dead.event_time,
    dead.recorded_at,
    'dead_lettered' AS disposition,
    dead.reason,
    NULL::VARCHAR AS account_id,
    NULL::VARCHAR AS subscription_id,
    NULL::VARCHAR AS price_id,
    NULL::TIMESTAMPTZ AS billing_period_start,
    NULL::VARCHAR AS line_id
FROM dead_letter_row AS dead
JOIN cut ON cut.producer_id = dead.producer_id AND dead.segment <= cut.last_segment
JOIN detail_span ON dead.event_date >= detail_span.starts_at::DATE AND dead.event_date < detail_span.ends_at::DATE
ORDER BY dead.producer_id, dead.segment, dead.row
