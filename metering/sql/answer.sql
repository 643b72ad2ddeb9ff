-- What each selector found. One row per (span, selector, group, cell) with anything to say; units of the meter, exact.
-- Here: what merges from the states of the span, and of what was carried into it. The other ways add their rows.
-- An average and a mean over time divide once, at the end; the mean over the full billing period, also of a part of it.
CREATE OR REPLACE TABLE answer AS
WITH taken AS (
    SELECT
        span_id,
        selector_set,
        selector_id,
        group_key,
        cell_key,
        sum(event_count) AS event_count,
        sum(quantity_sum) AS quantity_sum,
        max(quantity_max) AS quantity_max,
        min(quantity_min) AS quantity_min,
        min(first_event).quantity AS quantity_first,
        max(last_event).quantity AS quantity_last,
        sum(level_time)::HUGEINT AS level_time
    FROM selected
    WHERE way = 'merged'
    GROUP BY ALL
),
measured AS (
    SELECT
        taken.* EXCLUDE (selector_set),
        selector.aggregation,
        CASE selector.aggregation
            WHEN 'average' THEN (taken.quantity_sum * 1000000000)::HUGEINT
            WHEN 'time_weighted_sum' THEN taken.level_time
        END AS dividend,
        CASE selector.aggregation
            WHEN 'average' THEN taken.event_count::HUGEINT
            ELSE coalesce(selector.per_us, epoch_us(span.period_end) - epoch_us(span.period_start))::HUGEINT
        END AS divisor
    FROM taken
    JOIN span USING (span_id)
    JOIN selector
        ON selector.selector_set = taken.selector_set AND selector.selector_id = taken.selector_id
)
SELECT
    span_id,
    selector_id,
    group_key,
    cell_key,
    event_count::BIGINT AS event_count,
    CASE aggregation
        WHEN 'count' THEN event_count::DECIMAL(38, 9)
        WHEN 'sum' THEN quantity_sum
        WHEN 'max' THEN quantity_max
        WHEN 'min' THEN quantity_min
        WHEN 'first' THEN quantity_first
        WHEN 'last' THEN quantity_last
        ELSE from_billionths(divide_half_away(dividend, divisor))
    END::DECIMAL(38, 9) AS quantity
FROM measured
