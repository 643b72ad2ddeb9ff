-- Under which slot the worth of each span is: kept before, or rated now. One row per span that is asked for.
CREATE OR REPLACE TABLE span_slot AS
SELECT span_id, slot
FROM kept_match
ANTI JOIN dirty_tenant USING (tenant_id)
UNION ALL
SELECT span_id, slot
FROM fresh_span
