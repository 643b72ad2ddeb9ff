-- Where a missing unit would have been counted. One row per (span, selector, group, cell) that adds up what is asked for.
-- Only prices whose amount follows from a quantity in a cell: not those that look at single usage events, at levels, or at
-- other meters. `has_filter`: the price takes some usage events of the meter only, and others may take the rest.
SELECT
    span.tenant_id,
    selector.meter,
    span.span_id,
    span.currency,
    span.service_start,
    span.service_end,
    price.price_id,
    usage.selector_id,
    usage.group_key,
    usage.cell_key,
    greatest(usage.quantity, 0) AS quantity,
    selector.aggregation,
    EXISTS (
        SELECT 1
        FROM selector_filter AS filter
        WHERE filter.selector_set = selector.selector_set AND filter.selector_id = selector.selector_id
    ) AS has_filter
FROM billing_span AS span
JOIN price ON price.plan_key = span.plan_key
JOIN selector ON selector.selector_set = span.plan_key AND selector.selector_id = price.price_id
JOIN stake_asked AS asked ON asked.tenant_id = span.tenant_id AND asked.meter = selector.meter
JOIN usage ON usage.span_id = span.span_id AND usage.selector_id = selector.selector_id
WHERE span.is_current
    AND price.price_type IN ('unit', 'graduated', 'volume', 'package', 'stairstep', 'graduated_percentage', 'matrix')
    AND selector.aggregation IN ('sum', 'count')
    AND selector.way = 'merged'
    AND selector.bucket IS NULL
    AND selector.operation_attribute IS NULL
    AND price.combine_by IS NULL
    AND NOT price.is_by_event
    AND NOT price.is_weighted
    AND NOT price.tiers_are_held
ORDER BY ALL
