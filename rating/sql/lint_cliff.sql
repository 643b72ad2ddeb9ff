-- Who stood before a cliff: lines that would have cost less with more usage. One row per (plan, price, edge).
-- Enters: worth, and lint_edge: per (plan, price, edge) what a quantity just above the edge is worth. Within a tier worth
-- rises, so a line up to the edge that is worth more than that would have been cheaper beyond it.
SELECT
    edge.plan_key,
    edge.price_id,
    edge.edge,
    count(DISTINCT worth.tenant_id) AS tenants,
    sum(worth.exact_amount - edge.exact_amount_above)::DECIMAL(38, 21) AS exact_amount
FROM lint_edge AS edge
JOIN worth
    ON worth.plan_key = edge.plan_key
    AND worth.price_id = edge.price_id
    AND worth.quantity <= edge.edge
    AND worth.exact_amount > edge.exact_amount_above
GROUP BY ALL
