-- What rating made of the period, before anything that was booked is taken off: one row per (account, tenant, meter, currency).
-- Amounts are exact. Events and quantities are those that the lines counted, quantities as in point_priced; flat fees have no meter: ''.
SELECT
    worth.account_id,
    worth.tenant_id,
    coalesce(worth.meter, '') AS meter,
    worth.currency,
    sum(worth.event_count)::BIGINT AS event_count,
    coalesce(
        sum(worth.quantity) FILTER (as_metered.price_id IS NOT NULL AND worth.meter IS NOT NULL), 0
    )::DECIMAL(38, 9) AS quantity,
    sum(worth.exact_amount)::DECIMAL(38, 21) AS amount
FROM worth
LEFT JOIN price_as_metered AS as_metered ON as_metered.plan_key = worth.plan_key AND as_metered.price_id = worth.price_id
WHERE worth.is_current
GROUP BY ALL
HAVING sum(worth.event_count) <> 0 OR sum(worth.exact_amount) <> 0
ORDER BY ALL
