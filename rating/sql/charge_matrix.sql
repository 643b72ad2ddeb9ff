-- matrix: the unit price of the cell that the attributes of the use name, or else the default. Use in a cell without either
-- is in unpriced_usage, never free. 10 at 2, 4 at 1.50 and 30 of others at 0.10 are 29.
INSERT INTO charge
SELECT
    usage.span_id,
    usage.price_id,
    usage.group_key,
    usage.cell_key,
    1 AS tier,
    'unit' AS part,
    usage.quantity,
    coalesce(cell.unit_price, price.default_unit_price) AS unit_price,
    usage.quantity * coalesce(cell.unit_price, price.default_unit_price) AS exact_amount
FROM rated_usage AS usage
JOIN price USING (plan_key, price_id)
LEFT JOIN price_cell AS cell USING (plan_key, price_id, cell_key)
WHERE usage.price_type = 'matrix' AND usage.quantity > 0 AND coalesce(cell.unit_price, price.default_unit_price) IS NOT NULL
