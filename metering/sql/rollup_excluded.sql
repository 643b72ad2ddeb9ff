-- The stored usage events that do not count, and whose they are. One row per event that is a duplicate, voided, replaced
-- or refused as late.
CREATE OR REPLACE TABLE rollup_excluded AS
SELECT producer_id, segment, row, tenant_id
FROM duplicate
UNION
SELECT producer_id, segment, row, tenant_id
FROM corrected
UNION
SELECT producer_id, segment, row, tenant_id
FROM late_event
