-- The grants of every burn-down with their place in the burn order: one row per (burn, grant).
-- Priority (lower first), expiry (none last), creation (none last), id. Source: price models, section 8, (5).
CREATE OR REPLACE TABLE burn_grant_ordered AS
SELECT
    *,
    row_number() OVER (
        PARTITION BY burn_id
        ORDER BY priority, expires_at NULLS LAST, created_at NULLS LAST, grant_id
    ) AS place
FROM burn_grant
