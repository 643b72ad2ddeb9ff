-- What the lines of each metered price show. One row per (plan, price).
-- `idle`: lines of a quantity of 0 that still cost something; `groups` is the most lines of one tenant and period.
WITH line AS (
    SELECT
        *,
        count(*) OVER (PARTITION BY span_id, price_id) AS groups
    FROM worth
)
SELECT
    plan_key,
    price_id,
    count(DISTINCT tenant_id) AS tenants,
    sum(event_count)::BIGINT AS event_count,
    max(line.groups) AS groups,
    arg_max(tenant_id, (line.groups, tenant_id)) AS tenant_of_groups,
    count(DISTINCT tenant_id) FILTER (quantity = 0 AND line.amount > 0) AS idle_tenants,
    coalesce(sum(line.amount) FILTER (quantity = 0 AND line.amount > 0), 0)::DECIMAL(38, 12) AS idle_amount,
    sum(line.amount)::DECIMAL(38, 12) AS amount
FROM line
WHERE meter IS NOT NULL
GROUP BY ALL
ORDER BY plan_key, price_id
