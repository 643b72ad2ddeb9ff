-- What a maximum below the minimums inside it did. One row per (plan, maximum): what was paid above the maximum, because true-ups
-- come after it, and what it took away of what buckets of time had promised.
-- Enters: worth, charge, maximum, and lint_limit: per (plan, maximum) the prices it covers and the minimums inside it.
WITH paid AS (
    SELECT limits.plan_key, limits.maximum_id, worth.span_id, worth.tenant_id, sum(worth.amount) AS amount
    FROM lint_limit AS limits
    JOIN worth USING (plan_key, price_id)
    GROUP BY ALL
),
taken AS (
    SELECT
        limits.maximum_id,
        charge.span_id,
        coalesce(sum(charge.exact_amount) FILTER (charge.part = 'bucket_shortfall'), 0) AS promised,
        coalesce(-sum(charge.exact_amount) FILTER (charge.part = 'maximum:' || limits.maximum_id), 0) AS lowered
    FROM lint_limit AS limits
    JOIN billing_span ON billing_span.plan_key = limits.plan_key
    JOIN charge ON charge.span_id = billing_span.span_id AND charge.price_id = limits.price_id
    GROUP BY ALL
),
compared AS (
    SELECT
        paid.plan_key,
        paid.maximum_id,
        paid.tenant_id,
        greatest(paid.amount - round_amount(maximum.amount, currency.minor_per_major, currency.minor_unit), 0)
            + greatest(least(taken.promised, taken.lowered), 0) AS exact_amount
    FROM paid
    JOIN maximum ON maximum.span_id = paid.span_id AND maximum.part = 'maximum:' || paid.maximum_id
    JOIN billing_span ON billing_span.span_id = paid.span_id
    JOIN currency ON currency.currency = billing_span.currency
    JOIN taken ON taken.span_id = paid.span_id AND taken.maximum_id = paid.maximum_id
)
SELECT
    plan_key,
    maximum_id,
    count(DISTINCT tenant_id) FILTER (compared.exact_amount > 0) AS tenants,
    sum(compared.exact_amount)::DECIMAL(38, 21) AS exact_amount
FROM compared
GROUP BY ALL
