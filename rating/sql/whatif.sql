-- WHATIF: what history is worth under the terms as they are and under others, side by side, each line rounded once.
-- One row per (tenant, plan, new plan, price, billing period, currency); groups and subscriptions are added up. A price
-- that only one side has is worth 0 on the other. Currencies are never mixed: a plan in another one has rows of its own.
SELECT
    worth.tenant_id,
    worth.account_id,
    side.plan,
    side.plan_version,
    side.new_plan,
    side.new_plan_version,
    worth.price_id,
    worth.period_start,
    worth.period_end,
    worth.currency,
    coalesce(sum(worth.quantity) FILTER (NOT side.is_new), 0)::DECIMAL(38, 9) AS old_quantity,
    coalesce(sum(worth.quantity) FILTER (side.is_new), 0)::DECIMAL(38, 9) AS new_quantity,
    coalesce(sum(worth.amount) FILTER (NOT side.is_new), 0)::DECIMAL(38, 12) AS old_amount,
    coalesce(sum(worth.amount) FILTER (side.is_new), 0)::DECIMAL(38, 12) AS new_amount,
    new_amount - old_amount AS difference
FROM worth
JOIN whatif_side AS side USING (span_id)
GROUP BY ALL
ORDER BY ALL
