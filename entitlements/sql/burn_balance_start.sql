-- What is left of each grant after each step: one row per (seq, burn, grant). Step 0 is where the burn-down begins.
CREATE OR REPLACE TABLE burn_balance AS
SELECT
    0::BIGINT AS seq,
    burn_id,
    grant_id,
    balance AS before,
    0::DECIMAL(38, 9) AS burned,
    balance AS after,
    burned AS burned_here
FROM burn_grant_ordered
