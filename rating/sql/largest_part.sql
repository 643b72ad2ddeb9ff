-- Whose lines come to the most, in whole units of money so that any sum fits: of the account with the most the tenant with the most,
-- and of that one the price. One row; none where there are no lines.
WITH part AS (
    SELECT
        billing_span.account_id,
        billing_span.tenant_id,
        billing_span.plan,
        billing_span.plan_version,
        worth_line.price_id,
        sum(floor(abs(worth_line.exact_amount))::HUGEINT) AS size
    FROM worth_line
    JOIN billing_span USING (span_id)
    GROUP BY ALL
)
SELECT account_id, tenant_id, price_id, plan, plan_version, size
FROM part
ORDER BY
    sum(size) OVER (PARTITION BY account_id) DESC,
    account_id,
    sum(size) OVER (PARTITION BY account_id, tenant_id) DESC,
    tenant_id,
    size DESC,
    price_id
LIMIT 1
