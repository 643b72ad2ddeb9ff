-- Which prices make the difference. One row per (plan, new plan, price, currency); the largest differences first.
-- `tenants` are those whose amounts under this price differ in any period.
SELECT
    plan,
    new_plan,
    price_id,
    currency,
    count(DISTINCT tenant_id) FILTER (whatif.difference <> 0) AS tenants,
    sum(old_amount)::DECIMAL(38, 12) AS old_amount,
    sum(new_amount)::DECIMAL(38, 12) AS new_amount,
    sum(whatif.difference)::DECIMAL(38, 12) AS difference
FROM whatif
GROUP BY ALL
ORDER BY abs(sum(difference)) DESC, plan, new_plan, price_id, currency
