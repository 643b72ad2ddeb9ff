-- How much each meter was used under any plan, priced or not. One row per meter.
SELECT
    meter,
    count(DISTINCT tenant_id) AS tenants,
    sum(event_count)::BIGINT AS event_count,
    sum(quantity)::DECIMAL(38, 9) AS quantity
FROM lint_used
GROUP BY ALL
