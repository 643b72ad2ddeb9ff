-- A pool of included units over the cells of a matrix: each line has one, and takes from the cheapest cells first, or from the
-- dearest; of equal ones the first key, and cells without a price come last. 10 included, 8 at 2 and 6 at 1: the cheapest first
-- leave 4 at 2, the dearest first 4 at 1. Source: price models, section 2.4.
UPDATE rated_usage
SET included_quantity = taken.included_quantity, quantity = taken.quantity
FROM (
    WITH ordered AS (
        SELECT
            usage.span_id,
            usage.price_id,
            usage.group_key,
            usage.cell_key,
            usage.converted_quantity,
            price.pool,
            coalesce(sum(usage.converted_quantity) OVER before_it, 0) AS quantity_before
        FROM rated_usage AS usage
        JOIN price USING (plan_key, price_id)
        LEFT JOIN price_cell AS cell USING (plan_key, price_id, cell_key)
        WHERE price.pool IS NOT NULL AND NOT price.pool_is_pro_rata
        WINDOW before_it AS (
            PARTITION BY usage.span_id, usage.price_id, usage.group_key
            ORDER BY
                CASE WHEN price.pool_is_dearest_first THEN -1 ELSE 1 END * coalesce(cell.unit_price, price.default_unit_price)
                    NULLS LAST,
                usage.cell_key
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        )
    )
    SELECT
        span_id,
        price_id,
        group_key,
        cell_key,
        least(converted_quantity, greatest(pool - quantity_before, 0))::DECIMAL(38, 9) AS included_quantity,
        (converted_quantity - included_quantity)::DECIMAL(38, 9) AS quantity
    FROM ordered
) AS taken
WHERE taken.span_id = rated_usage.span_id
    AND taken.price_id = rated_usage.price_id
    AND taken.group_key = rated_usage.group_key
    AND taken.cell_key = rated_usage.cell_key
