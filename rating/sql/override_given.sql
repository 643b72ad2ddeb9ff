-- What the prices that subscriptions override are worth with and without it, each line rounded once.
-- One row per (subscription, price, billing period). Whether a price is overridden is for the reader to know.
SELECT
    worth.tenant_id,
    worth.account_id,
    worth.subscription_id,
    worth.price_id,
    worth.currency,
    worth.period_start,
    coalesce(sum(worth.amount) FILTER (side.is_new), 0)::DECIMAL(38, 12) AS plan_amount,
    coalesce(sum(worth.amount) FILTER (NOT side.is_new), 0)::DECIMAL(38, 12) AS amount
FROM worth
JOIN whatif_side AS side USING (span_id)
GROUP BY ALL
ORDER BY ALL
