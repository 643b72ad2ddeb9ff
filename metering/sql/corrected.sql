-- The events that a correction names, and the corrections that only void. One row per event that does not count.
-- A correction names its event by idempotency key (of the same tenant and meter) or by origin (of the same tenant): no
-- tenant can touch the usage of another. What is named stays out, whatever becomes of the correction; order is no matter.
-- An origin that no event can have names nothing; it must not keep the usage of everybody from being read.
CREATE OR REPLACE TABLE corrected AS
WITH correcting AS (
    SELECT
        producer_id,
        segment,
        row,
        tenant_id,
        meter,
        json_extract_string(correction, '$.verb') AS verb,
        json_extract_string(correction, '$.key') AS named_key,
        json_extract_string(correction, '$.producer_id') AS named_producer,
        TRY_CAST(json_extract_string(correction, '$.segment') AS BIGINT) AS named_segment,
        TRY_CAST(json_extract_string(correction, '$.row') AS INTEGER) AS named_row
    FROM stored_once
    WHERE correction IS NOT NULL
)
SELECT event.producer_id, event.segment, event.row, event.tenant_id
FROM stored_once AS event
SEMI JOIN correcting
    ON correcting.tenant_id = event.tenant_id
    AND correcting.meter = event.meter
    AND correcting.named_key = event.idempotency_key
UNION
SELECT event.producer_id, event.segment, event.row, event.tenant_id
FROM stored_once AS event
SEMI JOIN correcting
    ON correcting.tenant_id = event.tenant_id
    AND correcting.named_producer = event.producer_id
    AND correcting.named_segment = event.segment
    AND correcting.named_row = event.row
UNION
SELECT producer_id, segment, row, tenant_id
FROM correcting
WHERE verb = 'void'
