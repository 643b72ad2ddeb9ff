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
)
SELECT
    taken.span_id,
    taken.selector_id,
    taken.group_key,
    taken.cell_key,
    taken.event_count::BIGINT AS event_count,
    CASE selector.aggregation
        WHEN 'count' THEN taken.event_count::DECIMAL(38, 9)
        WHEN 'sum' THEN taken.quantity_sum
        WHEN 'max' THEN taken.quantity_max
        WHEN 'min' THEN taken.quantity_min
        WHEN 'first' THEN taken.quantity_first
        WHEN 'last' THEN taken.quantity_last
        WHEN 'average'
            THEN from_billionths(
                divide_half_away((taken.quantity_sum * 1000000000)::HUGEINT, taken.event_count::HUGEINT)
            )
        WHEN 'time_weighted_sum'
            THEN from_billionths(
                divide_half_away(
                    taken.level_time,
                    coalesce(selector.per_us, epoch_us(span.period_end) - epoch_us(span.period_start))::HUGEINT
                )
            )
    END::DECIMAL(38, 9) AS quantity
FROM taken
JOIN span USING (span_id)
JOIN selector
    ON selector.selector_set = taken.selector_set AND selector.selector_id = taken.selector_id
