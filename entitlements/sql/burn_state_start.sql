-- What is over, used and paid by grants after each step: one row per (seq, burn). Step 0 is where the burn-down begins.
-- `usage` and `granted_usage` count since the last reset; `overage` is what no grant covered.
CREATE OR REPLACE TABLE burn_state AS
SELECT 0::BIGINT AS seq, burn_id, overage, usage, granted_usage
FROM burn
