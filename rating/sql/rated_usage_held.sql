-- volume over units that are held: the tier is that of all units held at the end, and each pays for its share of the days.
UPDATE rated_usage
SET tiers_reached = greatest(held.units, 0)
FROM (
    SELECT selected.span_id, selected.selector_id, selected.group_key, sum(selected.quantity_sum)::DECIMAL(38, 9) AS units
    FROM selected
    GROUP BY ALL
) AS held, price
WHERE held.span_id = rated_usage.span_id
    AND held.selector_id = rated_usage.price_id
    AND held.group_key = rated_usage.group_key
    AND price.plan_key = rated_usage.plan_key
    AND price.price_id = rated_usage.price_id
    AND price.price_type = 'volume'
    AND price.tiers_are_held
