-- What a unit of a tenant's meter really cost in its last billing period before the period. One row per (tenant, meter).
WITH period_line AS (
    SELECT
        tenant_id,
        meter,
        currency,
        period_start,
        min(plan) AS plan,
        min(plan_version) AS plan_version,
        min(price_id) AS price_id,
        sum(quantity) AS quantity,
        sum(exact_amount) AS exact_amount
    FROM final_line
    WHERE meter IS NOT NULL AND period_end <= $start_instant
    GROUP BY tenant_id, meter, currency, period_start
)
SELECT *
FROM period_line
WHERE quantity > 0
QUALIFY row_number() OVER (PARTITION BY tenant_id, meter ORDER BY period_start DESC, currency) = 1
ORDER BY ALL
