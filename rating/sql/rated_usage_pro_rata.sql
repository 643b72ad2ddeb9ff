-- A pool of included units that the cells of a matrix share in proportion to their use: each line has one. 10 included, 8 at 2
-- and 6 at 1: 5.714285714 and 4.285714286 are included, and 6.285714286 is owed. Source: price models, section 2.4.
-- Shares are whole billionths of a unit; what is left goes to the largest remainders, of equal ones to the first keys, so that
-- they add up to the pool. Whole numbers are multiplied in two steps, so that nothing leaves 128 bits.
UPDATE rated_usage
SET included_quantity = taken.included_quantity, quantity = taken.quantity
FROM (
    WITH whole AS (
        SELECT
            usage.span_id,
            usage.price_id,
            usage.group_key,
            usage.cell_key,
            usage.converted_quantity,
            (usage.converted_quantity * 1000000000)::HUGEINT AS units,
            sum(units) OVER (PARTITION BY usage.span_id, usage.price_id, usage.group_key) AS units_of_all,
            least((price.pool * 1000000000)::HUGEINT, units_of_all) AS units_included
        FROM rated_usage AS usage
        JOIN price USING (plan_key, price_id)
        WHERE price.pool_is_pro_rata AND usage.converted_quantity > 0
    ),
    shared AS (
        SELECT
            *,
            units_included * (units // 1000000000) AS high,
            (high % units_of_all) * 1000000000 + units_included * (units % 1000000000) AS low,
            (high // units_of_all) * 1000000000 + low // units_of_all AS share,
            row_number() OVER (
                PARTITION BY span_id, price_id, group_key ORDER BY low % units_of_all DESC, cell_key
            ) AS place
        FROM whole
    ),
    dealt AS (
        SELECT *, units_included - sum(share) OVER (PARTITION BY span_id, price_id, group_key) AS units_left
        FROM shared
    )
    SELECT
        span_id,
        price_id,
        group_key,
        cell_key,
        ((share + CASE WHEN place <= units_left THEN 1 ELSE 0 END)::DECIMAL(38, 0) * 0.000000001::DECIMAL(9, 9))::DECIMAL(38, 9)
            AS included_quantity,
        (converted_quantity - included_quantity)::DECIMAL(38, 9) AS quantity
    FROM dealt
) AS taken
WHERE taken.span_id = rated_usage.span_id
    AND taken.price_id = rated_usage.price_id
    AND taken.group_key = rated_usage.group_key
    AND taken.cell_key = rated_usage.cell_key
