-- dynamic: the events carry their price, in the attribute that is the one key of the cell: money per unit, or an amount per
-- event (part `fixed`). It counts when it is plain decimal text of no more decimals than are kept; else the default does,
-- and without one the use is in unpriced_usage. 3 at 0.25 and 10 at 0.031 are 1.06.
INSERT INTO charge
WITH carried AS (
    SELECT
        usage.*,
        price.carries,
        json_extract_string(usage.cell_key, '$.*')[1] AS carried_text,
        CASE
            WHEN regexp_full_match(carried_text, price.carried_pattern)
                THEN try_cast(carried_text AS DECIMAL(24, 12))
            ELSE price.default_unit_price
        END AS carried_price,
        (carried_price * price.multiplier)::DECIMAL(24, 12) AS unit_price
    FROM rated_usage AS usage
    JOIN price USING (plan_key, price_id)
    WHERE usage.price_type = 'dynamic'
)
SELECT span_id, price_id, group_key, cell_key, 1 AS tier, 'unit' AS part, quantity, unit_price, quantity * unit_price AS exact_amount
FROM carried
WHERE carries = 'unit_price' AND quantity > 0 AND unit_price IS NOT NULL
UNION ALL
SELECT
    span_id,
    price_id,
    group_key,
    cell_key,
    1 AS tier,
    'fixed' AS part,
    event_count::DECIMAL(38, 9) AS events,
    unit_price,
    events * unit_price AS exact_amount
FROM carried
WHERE carries = 'amount' AND event_count > 0 AND unit_price IS NOT NULL
