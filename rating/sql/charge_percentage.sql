-- percentage: a percentage of the sum, as money per unit of money (2.5 % are 0.025), and a fixed amount per event. Prices
-- with something free, or with limits per event, are in charge_percentage_by_event.
INSERT INTO charge
WITH priced AS (
    SELECT usage.*, terms.unit_price, terms.fixed_amount
    FROM rated_usage AS usage
    JOIN price USING (plan_key, price_id)
    JOIN price_percentage AS terms USING (plan_key, price_id)
    WHERE usage.price_type = 'percentage' AND NOT price.is_by_event
)
SELECT span_id, price_id, group_key, cell_key, 1 AS tier, 'unit' AS part, quantity, unit_price, quantity * unit_price
FROM priced
WHERE quantity > 0
UNION ALL
SELECT
    span_id,
    price_id,
    group_key,
    cell_key,
    1 AS tier,
    'fixed' AS part,
    event_count::DECIMAL(38, 9) AS events,
    fixed_amount,
    events * fixed_amount AS exact_amount
FROM priced
WHERE event_count > 0 AND fixed_amount <> 0
