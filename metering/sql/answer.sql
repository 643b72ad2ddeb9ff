-- What each selector found. One row per (span, selector, group, cell) with anything to say; units of the meter, exact.
-- Here: what adds up or is compared, whatever the order of events. The other ways add their rows.
-- States are gathered by the numbers of `selection`, and the words are put to them afterwards. An average divides once, at
-- the end.
CREATE OR REPLACE TABLE answer AS
WITH taken AS (
    SELECT
        span_id,
        taking,
        bucket_start,
        sum(event_count) AS event_count,
        sum(quantity_sum) AS quantity_sum,
        max(quantity_max) AS quantity_max,
        min(quantity_min) AS quantity_min
    FROM selected
    WHERE way = 'merged'
    GROUP BY ALL
),
named AS (
    SELECT DISTINCT selection.taking, selector.selector_id, selector.aggregation, selection.group_key, selection.cell_key
    FROM selection
    JOIN selector USING (selector_set, selector_id)
)
SELECT
    taken.span_id,
    named.selector_id,
    named.group_key,
    -- As `selected` says it.
    coalesce(strftime(taken.bucket_start, '%Y-%m-%dT%H:%M:%SZ'), named.cell_key) AS cell_key,
    taken.event_count::BIGINT AS event_count,
    CASE named.aggregation
        WHEN 'count' THEN taken.event_count::DECIMAL(38, 9)
        WHEN 'sum' THEN taken.quantity_sum
        WHEN 'max' THEN taken.quantity_max
        WHEN 'min' THEN taken.quantity_min
        WHEN 'average'
            THEN from_billionths(
                divide_half_away((taken.quantity_sum * 1000000000)::HUGEINT, taken.event_count::HUGEINT)
            )
    END::DECIMAL(38, 9) AS quantity
FROM taken
JOIN named USING (taking)
