-- The stored usage events that say again what another one said first.
-- One row per duplicate: who lost, and to whom. Identity is the tuple (tenant, meter, idempotency key) over the whole
-- retention, never joined into one text. The first recorded wins; ties by origin, so that the answer is one and the same.
-- `is_conflict`: the payload differs from the winner's, which is a finding and not just a retry.
CREATE OR REPLACE TABLE duplicate AS
WITH keyed AS (
    SELECT
        *,
        row_number() OVER identity AS place,
        first_value(quantity) OVER identity AS first_quantity,
        first_value(event_time) OVER identity AS first_event_time,
        first_value(attributes) OVER identity AS first_attributes
    FROM keyed_event
    WINDOW identity AS (
        PARTITION BY tenant_id, meter, idempotency_key
        ORDER BY recorded_at, producer_id, segment, row
        ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
    )
)
SELECT
    tenant_id,
    meter,
    quantity,
    event_time,
    producer_id,
    segment,
    row,
    idempotency_key,
    (quantity, event_time, attributes) IS DISTINCT FROM (first_quantity, first_event_time, first_attributes) AS is_conflict
FROM keyed
WHERE place > 1
