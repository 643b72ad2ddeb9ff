-- Usage that came out below zero, and so was rated as zero. One row per (plan, price).
SELECT
    billing_span.plan_key,
    usage.selector_id AS price_id,
    count(DISTINCT billing_span.tenant_id) AS tenants,
    sum(usage.quantity)::DECIMAL(38, 9) AS quantity
FROM usage
JOIN billing_span USING (span_id)
WHERE usage.quantity < 0
GROUP BY ALL
ORDER BY ALL
