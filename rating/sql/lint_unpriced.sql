-- Usage that no price of the tenant's plan takes. One row per (plan, meter).
-- `is_priced`: the plan has prices on the meter, but none that lets these attributes through. `attributes` are those of
-- the most events among them.
WITH taken AS (
    SELECT DISTINCT selector.selector_set AS plan_key, selector.meter, selection.attributes
    FROM selection
    JOIN selector USING (selector_set, selector_id)
),
missed AS (
    SELECT used.plan_key, used.meter, used.attributes, used.tenant_id, used.event_count, used.quantity
    FROM lint_used AS used
    ANTI JOIN taken USING (plan_key, meter, attributes)
),
commonest AS (
    SELECT plan_key, meter, attributes
    FROM missed
    GROUP BY plan_key, meter, attributes
    QUALIFY row_number() OVER (PARTITION BY plan_key, meter ORDER BY sum(event_count) DESC, attributes) = 1
),
priced AS (
    SELECT DISTINCT plan_key, meter FROM price WHERE meter IS NOT NULL
)
SELECT
    missed.plan_key,
    missed.meter,
    priced.meter IS NOT NULL AS is_priced,
    commonest.attributes,
    count(DISTINCT missed.tenant_id) AS tenants,
    sum(missed.event_count)::BIGINT AS event_count,
    sum(missed.quantity)::DECIMAL(38, 9) AS quantity
FROM missed
JOIN commonest USING (plan_key, meter)
LEFT JOIN priced USING (plan_key, meter)
GROUP BY ALL
ORDER BY missed.plan_key, missed.meter
