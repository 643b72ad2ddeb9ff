-- What a plan would have brought in, and how many of its tenants would have paid less, more or the same.
-- One row per (plan version, new plan version, currency). A tenant counts by the sum of all its periods.
WITH tenant AS (
    SELECT
        plan,
        plan_version,
        new_plan,
        new_plan_version,
        currency,
        tenant_id,
        sum(old_amount)::DECIMAL(38, 12) AS old_amount,
        sum(new_amount)::DECIMAL(38, 12) AS new_amount,
        sum(difference)::DECIMAL(38, 12) AS difference
    FROM whatif
    GROUP BY ALL
)
SELECT
    plan,
    plan_version,
    new_plan,
    new_plan_version,
    currency,
    count(*) AS tenants,
    count_if(tenant.difference < 0)::BIGINT AS tenants_paying_less,
    count_if(tenant.difference > 0)::BIGINT AS tenants_paying_more,
    count_if(tenant.difference = 0)::BIGINT AS tenants_unchanged,
    sum(old_amount)::DECIMAL(38, 12) AS old_amount,
    sum(new_amount)::DECIMAL(38, 12) AS new_amount,
    sum(tenant.difference)::DECIMAL(38, 12) AS difference
FROM tenant
GROUP BY ALL
ORDER BY plan, plan_version, new_plan, new_plan_version, currency
