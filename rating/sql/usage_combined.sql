-- What is rated where a price puts two meters together: the quantity of its own, divided by, times, plus or minus that of
-- the other, of the same span, group and bucket. Divided by nothing it is 0; below zero it is rated as 0, like any quantity.
-- Rounded once, half away from zero, to 9 decimals. A group or bucket that only the other meter has is a sum all the same: nothing
-- of it is free. One row per (span, selector, group, cell), as usage_to_rate has.
CREATE OR REPLACE TABLE usage_combined AS
SELECT
    mine.span_id,
    mine.selector_id,
    mine.group_key,
    mine.cell_key,
    mine.event_count,
    CASE price.combine_by
        WHEN 'divide' THEN
            CASE
                WHEN coalesce(other.quantity, 0) > 0
                    THEN from_billionths(
                        divide_half_away(
                            (mine.quantity * 1000000000)::HUGEINT * 1000000000, (other.quantity * 1000000000)::HUGEINT
                        )
                    )
                ELSE 0
            END
        WHEN 'multiply' THEN from_billionths(
            divide_half_away(
                (mine.quantity * 1000000000)::HUGEINT * (coalesce(other.quantity, 0) * 1000000000)::HUGEINT, 1000000000
            )
        )
        WHEN 'add' THEN mine.quantity + coalesce(other.quantity, 0)
        WHEN 'subtract' THEN mine.quantity - coalesce(other.quantity, 0)
        ELSE mine.quantity
    END::DECIMAL(38, 9) AS quantity
FROM usage_to_rate AS mine
JOIN billing_span USING (span_id)
LEFT JOIN price ON price.plan_key = billing_span.plan_key AND price.price_id = mine.selector_id
LEFT JOIN usage AS other
    ON other.span_id = mine.span_id
    AND other.selector_id = price.combine_selector
    AND other.group_key = mine.group_key
    AND other.cell_key = mine.cell_key
UNION ALL
SELECT other.span_id, price.price_id AS selector_id, other.group_key, other.cell_key, 0 AS event_count, other.quantity
FROM usage AS other
JOIN billing_span USING (span_id)
JOIN price
    ON price.plan_key = billing_span.plan_key
    AND price.combine_selector = other.selector_id
    AND price.combine_by = 'add'
ANTI JOIN usage_to_rate AS mine
    ON mine.span_id = other.span_id
    AND mine.selector_id = price.price_id
    AND mine.group_key = other.group_key
    AND mine.cell_key = other.cell_key
