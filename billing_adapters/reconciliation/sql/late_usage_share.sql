-- What the closes of the period charged for billing periods that were over before it, of all that they charged: one row per currency.
-- Exact money, of control points. What late usage adds and what it takes back are both late: they are never netted between tenants.
SELECT
    currency,
    coalesce(sum(abs(amount)) FILTER (reason = 'corrected'), 0)::DECIMAL(38, 21) AS part,
    sum(abs(amount))::DECIMAL(38, 21) AS whole
FROM control_point
WHERE point = 'P4' AND reason IN ('charged', 'corrected')
GROUP BY ALL
ORDER BY ALL
