-- How much of a meter no price took, span by span: the largest first. One row per (span, plan, meter) with a price on it.
-- $sample: how many of each (plan, meter); they are priced one by one.
WITH taken AS (
    SELECT DISTINCT selector.selector_set AS plan_key, selector.meter, selection.attributes
    FROM selection
    JOIN selector USING (selector_set, selector_id)
)
SELECT
    used.plan_key,
    used.meter,
    used.span_id,
    sum(used.event_count)::BIGINT AS event_count,
    sum(used.quantity)::DECIMAL(38, 9) AS quantity
FROM lint_used AS used
ANTI JOIN taken USING (plan_key, meter, attributes)
SEMI JOIN price USING (plan_key, meter)
GROUP BY used.plan_key, used.meter, used.span_id
QUALIFY row_number() OVER (
    PARTITION BY used.plan_key, used.meter ORDER BY sum(used.quantity) DESC, sum(used.event_count) DESC, used.span_id
) <= $sample
ORDER BY used.plan_key, used.meter, used.span_id
