-- What a tenant would have paid. One row per (tenant, currency); the largest losses of revenue first, then the gains.
SELECT
    tenant_id,
    account_id,
    currency,
    sum(old_amount)::DECIMAL(38, 12) AS old_amount,
    sum(new_amount)::DECIMAL(38, 12) AS new_amount,
    sum(difference)::DECIMAL(38, 12) AS difference
FROM whatif
GROUP BY ALL
ORDER BY difference, tenant_id, account_id, currency
