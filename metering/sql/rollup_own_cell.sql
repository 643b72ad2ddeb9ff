-- The cells of the tenants whose spans begin or end where those of others do not: between two neighbouring boundaries, the
-- shared ones included. One row per (tenant, cell); half-open, [cell_start, cell_end).
CREATE OR REPLACE TABLE rollup_own_cell AS
WITH boundary AS (
    SELECT tenant_id, service_start AS instant FROM span
    UNION
    SELECT tenant_id, service_end FROM span
),
own AS (
    SELECT DISTINCT tenant_id
    FROM boundary
    ANTI JOIN rollup_shared ON rollup_shared.boundary = boundary.instant
    WHERE boundary.instant > $first AND boundary.instant < $last
),
cut_at AS (
    SELECT boundary.tenant_id, boundary.instant
    FROM boundary
    SEMI JOIN own USING (tenant_id)
    WHERE boundary.instant > $first AND boundary.instant < $last
    UNION
    SELECT own.tenant_id, rollup_shared.boundary
    FROM own, rollup_shared
)
SELECT
    tenant_id,
    instant AS cell_start,
    lead(instant) OVER (PARTITION BY tenant_id ORDER BY instant) AS cell_end
FROM cut_at
QUALIFY cell_end IS NOT NULL
